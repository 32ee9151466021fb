"""The page of `galaxy_mpi.validate`."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.configuration import versions_text
from galaxy_mpi.report.parts import Bars, Cell, Column, Curves, Facts, Page, Section, Table
from galaxy_mpi.studies.claims import Claim

__all__ = ["validate_page"]

Times = Sequence[JsonView]  # of the JSON


def validate_page(
    content: JsonView,
    left_out: Mapping[str, Sequence[float]],
    claims: Sequence[Claim],
) -> Page:
    """Return the page of a validation.

    Parameters
    ----------
    content : mapping
        What ``--json`` writes.
    left_out : mapping of str to sequence of float
        Sizes of the errors of fits that leave a group out, by its name.
    claims : sequence of Claim
    """
    times = content["times"]
    known = [time for time in times if time["set"] == "reproduced"]
    more = [time for time in times if time["set"] != "reproduced"]
    means = [fmean(errors) for errors in left_out.values()]
    sections = [_times_section(known), _kinds_section(known), _left_out_section(left_out)]
    if more:
        sections.insert(0, _more_section(more))
    sections += [_claims_section(claims), _sources(times)]
    return Page(
        title="Device times, modelled and published",
        command=content["run"]["argv"],
        facts=[
            ("published times", str(len(known))),
            ("in sample", f"{_mean(known, 'error'):.1%} mean absolute error"),
            ("left out", f"{fmean(means):.1%}, mean of the groups"),
            ("roofline", f"{_mean(known, 'roofline_error'):.1%}, to compare with"),
            ("versions", versions_text(content["run"])),
        ],
        sections=sections,
    )


def _mean(times: Times, name: str) -> float:
    found = [abs(time[name]) for time in times if time.get(name) is not None]
    return fmean(found) if found else 0.0


def _times_section(times: Times) -> Section:
    kinds = list(dict.fromkeys(time["kind"] for time in times))
    curves = {
        kind: [(t["published_s"] * 1e6, t["modelled_s"] * 1e6) for t in times if t["kind"] == kind]
        for kind in kinds
    }
    labels = {kind: [t["name"] for t in times if t["kind"] == kind] for kind in kinds}
    ends = [f(point for curve in curves.values() for point in curve) for f in (min, max)]
    curves["equal"] = [(value, value) for value in (ends[0][0], ends[1][0])]
    rows: list[list[Cell]] = [
        [
            time["name"],
            time["kind"],
            time["published_s"] * 1e6,
            time["modelled_s"] * 1e6,
            time["error"],
            time["left_out_error"],
            time["roofline_error"],
        ]
        for time in times
    ]
    columns = [
        Column("time"),
        Column("kind"),
        Column("published", "us", ".2f"),
        Column("modelled", "us", ".2f"),
        Column("in sample", "", "+.1%"),
        Column("left out", "", ".1%"),
        Column("roofline", "", "+.0%"),
    ]
    chart = Curves(
        "Every published time and its model; on the line they are equal",
        "published, us",
        "modelled, us",
        curves,
        Table(columns, rows, "Published times", is_folded=True),
        labels=labels,
        is_log=True,
        joined=("equal",),
    )
    text = (
        "In sample: error of the device model, which is fitted to these times. Left out: mean "
        "absolute error of fits without this time's machine, length, model, system or kind. "
        "Roofline: error of the simplest model, bytes or arithmetic over their peaks."
    )
    return Section("Times", [chart], text)


def _kinds_section(times: Times) -> Section:
    names = ("error", "left_out_error", "roofline_error")
    kinds = [*dict.fromkeys(time["kind"] for time in times)]
    groups = [(kind, [t for t in times if t["kind"] == kind]) for kind in kinds] + [("all", times)]
    rows: list[list[Cell]] = [
        [kind, len(group), *(_mean(group, name) or None for name in names)]
        for kind, group in groups
    ]
    columns = [
        Column("kind"),
        Column("times", "", "d"),
        Column("in sample", "", ".1%"),
        Column("left out", "", ".1%"),
        Column("roofline", "", ".1%"),
    ]
    series: dict[str, list[float | None]] = {
        title: [100 * _mean(group, name) or None for _, group in groups]
        for title, name in zip(("in sample", "left out"), names, strict=False)
    }
    chart = Bars(
        "Mean absolute error by kind",
        "%",
        [kind for kind, _ in groups],
        series,
        Table(columns, rows, "By kind"),
    )
    return Section("Kinds", [chart])


def _left_out_section(left_out: Mapping[str, Sequence[float]]) -> Section:
    rows: list[list[Cell]] = [
        [name, len(errors), fmean(errors), max(errors)] for name, errors in left_out.items()
    ]
    columns = [
        Column("left out"),
        Column("times", "", "d"),
        Column("mean", "", ".1%"),
        Column("worst", "", ".1%"),
    ]
    chart = Bars(
        "Errors where a group was left out of the fit",
        "%",
        list(left_out),
        {
            "mean": [100 * fmean(errors) for errors in left_out.values()],
            "worst": [100 * max(errors) for errors in left_out.values()],
        },
        Table(columns, rows, "By what was left out"),
    )
    return Section(
        "Left out", [chart], "How far to trust predictions of what has not been measured."
    )


def _more_section(times: Times) -> Section:
    rows: list[list[Cell]] = [
        [
            time["name"],
            time["published_s"] * 1e6,
            None if time["modelled_s"] is None else time["modelled_s"] * 1e6,
            time["error"],
        ]
        for time in times
    ]
    columns = [
        Column("time"),
        Column("published", "us", ".2f"),
        Column("predicted", "us", ".2f"),
        Column("error", "", "+.1%"),
    ]
    return Section(
        "Predicted", [Table(columns, rows)], "Times of --golden, to which nothing was fitted."
    )


def _claims_section(claims: Sequence[Claim]) -> Section:
    rows: list[list[Cell]] = [[claim.what, claim.claimed, claim.modelled] for claim in claims]
    columns = [Column("what"), Column("claimed"), Column("modelled")]
    text = (
        "Of an earlier write-up of this system, whose title and year are not known; nothing is "
        "fitted to it."
    )
    return Section("Claims", [Table(columns, rows)], text)


def _sources(times: Times) -> Section:
    counts: dict[str, int] = {}
    for time in times:
        counts[time["source"]] = counts.get(time["source"], 0) + 1
    rows = [(source, f"{n} times") for source, n in sorted(counts.items())]
    return Section("Sources", [Facts(rows)])
