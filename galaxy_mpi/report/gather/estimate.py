"""The page of `galaxy_mpi.estimate`."""

from collections.abc import Sequence

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.configuration import configuration_section, versions_text
from galaxy_mpi.report.gather.device import device_facts, device_sections
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.parts import Bars, Cell, Column, Ends, Page, Section, Table, ends_of
from galaxy_mpi.studies.what_helps import Help
from galaxy_mpi.studies.what_if import WhatIf

__all__ = ["estimate_page", "sweep_page"]


def estimate_page(what_if: WhatIf, report: JsonView, helps: Sequence[Help] = ()) -> Page:
    """Return the page of an estimate.

    Parameters
    ----------
    what_if : WhatIf
    report : mapping
        What ``--json`` writes.
    helps : sequence of Help
        Of ``--what-helps``.
    """
    run, figures = report["run"], report["device"]
    step = ShownStep(
        what_if.estimator,
        [what_if.longest] * what_if.programs.mesh.cols,
        what_if.slowness,
        f"the decode step after {what_if.longest} tokens",
    )
    sections = device_sections(step, figures, what_if.budget)
    if helps:
        sections.append(_helps_section(helps))
    return Page(
        title=f"{report['model']} on {report['mesh']} chips, estimated",
        command=run["argv"],
        facts=[
            ("machine, system", f"{report['machine']}, {report['system']}"),
            ("precision", report["precision"]),
            ("users, tokens", f"{report['users']}, {report['input_tokens']} in, "
             f"{report['new_tokens']} new"),
            *device_facts(figures),
            ("versions", versions_text(run)),
        ],
        sections=[*sections, configuration_section(run, run["config"])],
    )  # fmt: skip


def _helps_section(helps: Sequence[Help]) -> Section:
    rows: list[list[Cell]] = [
        [row.what, row.step_s * 1e6, row.first_token_s * 1e3] for row in helps
    ]
    columns = [
        Column("if this cost were half"),
        Column("saved of a step", "us", ".2f"),
        Column("saved of the first token", "ms", ".3f"),
    ]
    chart = Bars(
        title="Saved of a decode step, if a cost were half",
        unit="us",
        names=[row.what for row in helps],
        series={"saved": [row.step_s * 1e6 for row in helps]},
        table=Table(columns, rows, "What helps"),
    )
    return Section("What helps", [chart], "Each cost of the machine halved by itself.")


def sweep_page(key: str, rows: Sequence[JsonView], run: JsonView) -> Page:
    """Return the page of a sweep.

    Parameters
    ----------
    key : str
        The option that is swept.
    rows : sequence of mapping
        What ``--json`` writes.
    run : mapping
        ``argv`` and ``versions``.
    """
    columns = [
        Column(key),
        Column("decode step", "ms", ".3f"),
        Column("+-", "", ".0%"),
        Column("tokens/s/user", "", ".2f"),
        Column("tokens/s", "all users", ".1f"),
        Column("first token", "ms", ".2f"),
        Column("+-", "", ".0%"),
        Column("prefetch stall", "us a step", ".1f"),
        Column("not estimated"),
    ]
    known = [row for row in rows if not row["not_estimated"]]
    cells = [
        [
            row[key],
            _times(row["decode_step_s"], 1e3),
            row["decode_step_s_margin"],
            row["tokens_per_s_per_user"],
            row["tokens_per_s"],
            _times(row["time_to_first_token_s"], 1e3),
            row["time_to_first_token_s_margin"],
            _times(row["prefetch_stall_s"], 1e6),
            row["not_estimated"],
        ]
        for row in rows
    ]
    names = [f"{key} {row[key]}" for row in known]
    table = Table(columns, cells, "The sweep")
    steps = Bars(
        "Decode step, device time",
        "ms",
        names,
        {"device": [row["decode_step_s"] * 1e3 for row in known]},
        table,
        ends={"device": [_band(row, "decode_step_s") for row in known]},
    )
    first = Bars(
        "Time to first token, device time",
        "ms",
        names,
        {"device": [row["time_to_first_token_s"] * 1e3 for row in known]},
        Table(columns[:1] + columns[5:7], [[r[0], *r[5:7]] for r in cells], "", is_folded=False),
        ends={"device": [_band(row, "time_to_first_token_s") for row in known]},
    )
    facts = [("swept", f"{key}, {len(rows)} values"), ("versions", versions_text(run))]
    text = "Error bars: band of the device model."
    return Page(f"Sweep of {key}", run["argv"], facts, [Section("Sweep", [steps, first], text)])


def _band(row: JsonView, name: str) -> Ends | None:
    return ends_of(row[name] * 1e3, row[f"{name}_margin"])


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
