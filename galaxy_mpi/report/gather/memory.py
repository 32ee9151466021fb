"""The section with a chip's memory by kind, against what the chip has."""

from galaxy_mpi.report.parts import Bars, Column, Section, Table
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.budget import Budget

__all__ = ["memory_section"]


def memory_section(budget: Budget, machine: Machine) -> Section:
    """Return DRAM and L1 of a chip at the end of the run."""
    ring_l1 = machine.ring_cores * machine.l1_bytes
    worker_l1 = machine.worker_cores * machine.l1_bytes
    rows: list[tuple[str, str, float, float]] = [
        ("weights", "DRAM", budget.weights_bytes, machine.dram_bytes),
        ("embedding", "DRAM", budget.embedding_bytes, machine.dram_bytes),
        ("KV cache", "DRAM", budget.kv_cache_bytes, machine.dram_bytes),
        ("all of DRAM", "DRAM", budget.dram_bytes, machine.dram_bytes),
        ("circular buffer", "L1 of ring cores", budget.circular_buffer_bytes, ring_l1),
        ("persistent buffers", "L1 of worker cores", budget.persistent_buffers_bytes, worker_l1),
    ]
    columns = [
        Column("kind"),
        Column("where"),
        Column("bytes of a chip", "MiB", ".2f"),
        Column("there are", "MiB", ".1f"),
        Column("share", "", ".1%"),
    ]
    cells = [
        [kind, where, used / 2**20, room / 2**20, used / room if room else None]
        for kind, where, used, room in rows
    ]
    kinds = [row[0] for row in rows[:3]]
    places = ["DRAM", "L1 of ring cores", "L1 of worker cores"]
    rooms = {"DRAM": machine.dram_bytes, places[1]: ring_l1, places[2]: worker_l1}
    series: dict[str, list[float | None]] = {}
    for kind, where, used, room in rows:
        if kind == "all of DRAM":
            continue
        shares: list[float | None] = [None] * len(places)
        shares[places.index(where)] = 100 * used / room if room else None
        series[kind] = shares
    free: list[float | None] = []
    for where in places:
        used = sum(r[2] for r in rows if r[1] == where and r[0] != "all of DRAM")
        free.append(max(0.0, 100 - 100 * used / rooms[where]) if rooms[where] else None)
    series["free"] = free
    assert len(kinds) == 3
    chart = Bars(
        title="Memory of a chip against what it has",
        unit="% of what there is",
        names=places,
        series=series,
        table=Table(columns, cells, "Memory of a chip"),
        is_stacked=True,
    )
    text = "Bytes on the device, padding included, with the KV cache at the end of the run."
    return Section("Memory of a chip", [chart], text)
