"""The page of `galaxy_mpi.compare`."""

from collections.abc import Sequence

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.configuration import configuration_section, versions_text
from galaxy_mpi.report.parts import (
    Bars,
    Cell,
    Column,
    Ends,
    Facts,
    Page,
    Part,
    Section,
    Table,
    ends_of,
)
from galaxy_mpi.studies.comparison import Row, gains_of, sent_bytes, unit_of_sent
from galaxy_mpi.studies.ideas import CLAIMS

__all__ = ["compare_page"]


def compare_page(rows: Sequence[Row], run: JsonView, title: str, stored: Sequence[str]) -> Page:
    """Return the page of a comparison.

    Parameters
    ----------
    rows : sequence of Row
    run : mapping
        ``run`` of the JSON.
    title : str
        Model and mesh.
    stored : sequence of str
        What the two systems store differently, a line for each change.
    """
    steps, alone = [r for r in rows if not r.is_alone], [r for r in rows if r.is_alone]
    sections: list[Section] = []
    facts = [("steps", f"{len(steps)}, from {steps[0].name} to the Galaxy")]
    if steps[0].device is not None and steps[-1].device is not None:
        sections.append(_device_section(steps, alone))
        first_s, last_s = steps[0].device.seconds, steps[-1].device.seconds
        told = f"{first_s * 1e3:.3f} to {last_s * 1e3:.3f} ms, {first_s / last_s:.2f} times as fast"
        facts.append(("device: decode step", told))
    if steps[0].host is not None:
        sections.append(_host_section(steps, alone))
    if stored:
        pairs = [(before, after) for before, _, after in (line.partition(": ") for line in stored)]
        text = "What the two systems store differently; all later rows use the Galaxy's formats."
        sections.append(Section("Formats", [Facts(pairs)], text))
    return Page(
        title=f"From TT-Transformers to the Galaxy: {title}",
        command=run["argv"],
        facts=[*facts, ("versions", versions_text(run))],
        sections=[*sections, configuration_section(run, run["config"])],
    )


def _names(steps: Sequence[Row]) -> list[str]:
    return [steps[0].name, *(f"+ {row.name}" for row in steps[1:])]


def _device_section(steps: Sequence[Row], alone: Sequence[Row]) -> Section:
    by_name = {row.name: row for row in alone}
    unit, unit_bytes = unit_of_sent(steps)
    cells: list[list[Cell]] = []
    for name, row in zip(_names(steps), steps, strict=True):
        device, single = row.device, by_name.get(row.name)
        assert device is not None
        cells.append(
            [
                name,
                device.seconds * 1e3,
                row.band.margin if row.band else None,
                None if not row.group or row.device_gain is None else row.device_gain - 1,
                None if single is None or not single.device_gain else single.device_gain - 1,
                sent_bytes(device) / unit_bytes,
                row.allocations,
                device.stall_s * 1e6,
            ]
        )
    columns = [
        Column("optimization"),
        Column("decode step", "ms", ".3f"),
        Column("+-", "", ".0%"),
        Column("gain", "", "+.1%"),
        Column("alone", "", "+.1%"),
        Column("sent by the busiest links", unit, ".1f"),
        Column("allocations", "", "d"),
        Column("prefetch stall", "us", ".1f"),
    ]
    seconds: list[float | None] = [r.device.seconds * 1e3 if r.device else None for r in steps]
    chart = Bars(
        "Decode step, each optimization on top of those before it",
        "ms",
        _names(steps),
        {"device": seconds},
        Table(columns, cells, "Device time"),
        ends={"device": [_band(row) for row in steps]},
    )
    parts: list[Part] = [chart]
    known = [row for row in alone if row.device_gain is not None]
    if known:
        values = [100 * (row.device_gain - 1) if row.device_gain else None for row in known]
        table = Table(
            [Column("optimization"), Column("gain alone", "", "+.1%")],
            [[row.name, (row.device_gain or 1) - 1] for row in known],
        )
        names = [row.name for row in known]
        parts.append(Bars("Each by itself", "% faster", names, {"device": values}, table))
    parts.append(_claims(steps))
    text = (
        "Gain: by how much each row is faster than the row above it. Alone: by how much that one "
        "optimization makes the generic system faster. Error bars: band of the device model."
    )
    return Section("Device time", parts, text)


def _band(row: Row) -> Ends | None:
    if row.device is None or row.band is None:
        return None
    return ends_of(row.device.seconds * 1e3, row.band.margin)


def _claims(steps: Sequence[Row]) -> Table:
    gains = gains_of(steps)
    cells: list[list[Cell]] = [
        [group, claim.text, gains[group] - 1, claim.factor(gains[group])]
        for group, claim in CLAIMS.items()
    ]
    columns = [
        Column("group"),
        Column("claimed in an earlier write-up"),
        Column("modelled", "", "+.1%"),
        Column("modelled over claimed", "", ".2f"),
    ]
    return Table(columns, cells, "Groups of optimizations")


def _host_section(steps: Sequence[Row], alone: Sequence[Row]) -> Section:
    by_name = {row.name: row for row in alone}
    cells: list[list[Cell]] = []
    for name, row in zip(_names(steps), steps, strict=True):
        single = by_name.get(row.name)
        gain = row.host_gain
        cells.append(
            [
                name,
                None if row.host_step_s is None else row.host_step_s * 1e3,
                None if not row.group or gain is None else gain - 1,
                None if single is None or not single.host_gain else single.host_gain - 1,
                row.other_tokens,
            ]
        )
    columns = [
        Column("optimization"),
        Column("decode step", "ms", ".1f"),
        Column("gain", "", "+.1%"),
        Column("alone", "", "+.1%"),
        Column("users with another next token", "", "d"),
    ]
    values = [None if r.host_step_s is None else r.host_step_s * 1e3 for r in steps]
    chart = Bars(
        "Decode step on this computer, median of the turns",
        "ms",
        _names(steps),
        {"host": values},
        Table(columns, cells, "Host time", is_host=True),
        is_host=True,
    )
    return Section("Host time", [chart])
