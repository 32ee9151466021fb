"""The page of `benchmarks/ring_collectives.py`."""

from collections.abc import Sequence

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.configuration import plain
from galaxy_mpi.report.parts import Cell, Column, Curves, Facts, Page, Section, Table

__all__ = ["collectives_page"]

Rows = Sequence[JsonView]  # of the JSON

_COLUMNS = {
    "implementation": Column("implementation"),
    "topology": Column("topology"),
    "ran_as": Column("ran as"),
    "transport": Column("transport"),
    "size_bytes": Column("size", "B", ",d"),
    "dtype": Column("type"),
    "time_us": Column("host time", "us", ".1f"),
    "time_min_us": Column("least", "us", ".1f"),
    "time_max_us": Column("most", "us", ".1f"),
    "algbw_GBps": Column("algbw", "GB/s", ".3f"),
    "busbw_GBps": Column("busbw", "GB/s", ".3f"),
    "wrong": Column("wrong values", "", "d"),
    "device_time_us": Column("device time", "us", ".2f"),
    "device_busbw_GBps": Column("device busbw", "GB/s", ".2f"),
    "device_peak_GBps": Column("its links allow", "GB/s", ".2f"),
}


def collectives_page(rows: Rows, argv: Sequence[str], settings: JsonView) -> Page:
    """Return the page of a benchmark.

    Parameters
    ----------
    rows : sequence of mapping
        What ``--json`` writes.
    argv : sequence of str
    settings : mapping
        Name and value of each argument.
    """
    n_wrong = sum(max(0, row["wrong"]) for row in rows)
    kinds = list(dict.fromkeys((row["op"], row["axis"]) for row in rows))
    sections = [
        _section(op, axis, [row for row in rows if (row["op"], row["axis"]) == (op, axis)])
        for op, axis in kinds
    ]
    names = [(name.replace("_", " "), plain(value)) for name, value in settings.items()]
    return Page(
        title=f"Collectives on a {settings['mesh']} mesh",
        command=argv,
        facts=[
            ("measured", f"{len(rows)} rows, {len(kinds)} collectives"),
            ("wrong values", str(n_wrong) if settings["check"] else "not looked for"),
        ],
        sections=[*sections, Section("Configuration", [Facts(names, "Settings")])],
    )


def _section(op: str, axis: str, rows: Rows) -> Section:
    times, buses = dict[str, list[tuple[float, float]]](), dict[str, list[tuple[float, float]]]()
    for row in rows:
        name = " ".join(filter(None, (row["implementation"], row["topology"])))
        point = float(row["size_bytes"])
        times.setdefault(name, []).append((point, row["time_us"]))
        buses.setdefault(name, []).append((point, row["busbw_GBps"]))
        if row["topology"]:
            name = f"device {row['topology']}"
            times.setdefault(name, []).append((point, row["device_time_us"]))
            buses.setdefault(name, []).append((point, row["device_busbw_GBps"]))
    cells: list[list[Cell]] = [[row[name] for name in _COLUMNS] for row in rows]
    title = f"{op} of a {axis}"
    table = Table(list(_COLUMNS.values()), cells, title, is_folded=True, is_host=True)
    bandwidths = [Column("size", "B", ",.0f"), *(Column(name, "GB/s", ".3f") for name in buses)]
    sizes = list(dict.fromkeys(point for curve in buses.values() for point, _ in curve))
    by_size: list[list[Cell]] = [
        [size, *(dict(curve).get(size) for curve in buses.values())] for size in sizes
    ]
    charts = [
        Curves(f"Time of {title}", "size, B", "us", times, table, is_log=True, is_host=True),
        Curves(
            f"Bus bandwidth of {title}",
            "size, B",
            "GB/s",
            buses,
            Table(bandwidths, by_size, "busbw", is_folded=True, is_host=True),
            is_log=True,
            is_host=True,
        ),
    ]
    text = "Size and bandwidths as in nccl-tests; all groups of the axis run at once."
    return Section(title, charts, text)
