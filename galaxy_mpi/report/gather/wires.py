"""The section with every collective: bytes, time, algbw and busbw."""

from dataclasses import dataclass

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program.charge import Cross
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.parts import Bars, Cell, Column, Section, Table

__all__ = ["Bandwidth", "bandwidth_of", "wires_section"]


@dataclass(frozen=True)
class Bandwidth:
    """A collective as nccl-tests counts it."""

    size_bytes: int
    """Of the result of an all-gather, of the input of reductions."""
    algbw: float
    """Bytes a second: size over time."""
    busbw: float
    """Bytes a second on each link, for any number of chips."""


def bandwidth_of(wire: Wire, mesh: Mesh, seconds: float) -> Bandwidth:
    """Return the bandwidths of a collective that takes so many seconds."""
    n = mesh.size(wire.axis)
    size = wire.n_bytes * (1 if wire.kind is Kind.ALL_REDUCE else n)
    factor = (2 if wire.kind is Kind.ALL_REDUCE else 1) * (n - 1) / n
    algbw = size / seconds if seconds else 0.0
    return Bandwidth(size, algbw, algbw * factor)


def wires_section(step: ShownStep) -> Section:
    """Return a row for each collective of a layer and of the head, without waiting for others."""
    record, seen = step.record, dict[tuple[str, Wire], list[float]]()
    for work in record.work:
        if isinstance(work.charge, Cross):
            spent = work.end_s - work.begin_s - work.waited_s
            key = (work.charge.name, work.charge.wire)
            seen.setdefault(key, []).append(float(spent[0, 0]))
    rows, names = list[list[Cell]](), list[str]()
    algbws, busbws = list[float | None](), list[float | None]()
    for (name, wire), spent_s in seen.items():
        seconds = sum(spent_s) / len(spent_s)
        found = bandwidth_of(wire, step.mesh, seconds)
        names.append(f"{name} ({wire.key})")
        algbws.append(found.algbw / 1e9)
        busbws.append(found.busbw / 1e9)
        rows.append(
            [
                name,
                wire.key,
                f"{wire.kind.value} {wire.axis.group_name}",
                wire.dtype.name,
                "x".join(map(str, wire.shape)),
                found.size_bytes / 2**10,
                len(spent_s),
                seconds * 1e6,
                found.algbw / 1e9,
                found.busbw / 1e9,
            ]
        )
    columns = [
        Column("op"),
        Column("buffer"),
        Column("collective"),
        Column("format"),
        Column("shape"),
        Column("size", "KiB", ".2f"),
        Column("times", "", "d"),
        Column("each", "us", ".2f"),
        Column("algbw", "GB/s", ".2f"),
        Column("busbw", "GB/s", ".2f"),
    ]
    chart = Bars(
        title="Bandwidth of each collective, device time",
        unit="GB/s",
        names=names,
        series={"algbw": algbws, "busbw": busbws},
        table=Table(columns, rows, "Collectives of a step, chip (0, 0)"),
    )
    text = (
        "Sizes are those of nccl-tests: the result of an all-gather, the input of a reduction. "
        "Times exclude waiting for chips that enter later; they include what an op computes "
        f"during the collective. A link carries {step.machine.link_bytes_per_s / 1e9:.1f} GB/s in "
        f"each direction; neighbours are joined by {step.machine.links:g}."
    )
    return Section("Collectives", [chart], text)
