"""The page of a sweep of `galaxy_mpi.traffic`."""

from collections.abc import Sequence

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.configuration import versions_text
from galaxy_mpi.report.parts import Cell, Column, Curves, Ends, Page, Section, Table

__all__ = ["traffic_sweep_page"]

Figures = JsonView


def traffic_sweep_page(key: str, rows: Sequence[Figures], run: Figures, model: str) -> Page:
    """Return the page of a sweep.

    Parameters
    ----------
    key : str
        The option that is swept.
    rows : sequence of mapping
        What ``--json`` writes.
    run : mapping
        ``argv`` and ``versions``.
    model : str
    """
    known = [row for row in rows if not row["not_played"]]
    places = _places([row[key] for row in known])
    sections = []
    for title, unit, scale, names in (
        ("Time to first token", "ms", 1e3, {p: f"ttft_{p}_s" for p in ("p50", "p90", "p99")}),
        ("Time per output token", "ms", 1e3, {p: f"tpot_{p}_s" for p in ("p50", "p90", "p99")}),
        ("Requests served", "1/s", 1.0,
         {"served": "requests_per_s", "good": "goodput_requests_per_s"}),
        ("Tokens", "1/s", 1.0, {"all users": "tokens_per_s"}),
        ("Tokens of a user", "1/s", 1.0, {"a user": "tokens_per_s_per_user"}),
    ):  # fmt: skip
        shown = {
            label: name
            for label, name in names.items()
            if any(row[name] is not None for row in known)
        }
        curves, ends = dict[str, list[tuple[float, float]]](), dict[str, list[Ends | None]]()
        for label, name in shown.items():
            points = [(x, r) for x, r in zip(places, known, strict=True) if r[name] is not None]
            curves[label] = [(x, r[name] * scale) for x, r in points]
            ends[label] = [_ends(r[f"{name}_low"], r[f"{name}_high"], scale) for _, r in points]
        columns = [Column(key)]
        for label in shown:
            columns += [Column(label, unit, ".3f"), Column("least"), Column("most")]
        columns = [c if c.form or c.name == key else Column(c.name, unit, ".3f") for c in columns]
        cells: list[list[Cell]] = [
            [row[key], *(
                None if row[f"{name}{end}"] is None else row[f"{name}{end}"] * scale
                for name in shown.values() for end in ("", "_low", "_high")
            )]
            for row in rows
        ]  # fmt: skip
        chart = Curves(
            title, key, unit, curves, Table(columns, cells, title, is_folded=True), ends=ends
        )
        sections.append(Section(title, [chart]))
    reasons = [(f"{key} {row[key]}", row["not_played"]) for row in rows if row["not_played"]]
    facts = [
        ("swept", f"{key}, {len(rows)} values"),
        *reasons,
        ("versions", versions_text(run)),
    ]
    return Page(f"{model}: traffic by {key}", run["argv"], facts, sections)


def _places(words: Sequence[str]) -> list[float]:
    """Return the numbers that values are, or their order."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return [float(number) for number in range(len(words))]


def _ends(low: float, high: float, scale: float) -> Ends:
    return low * scale, high * scale
