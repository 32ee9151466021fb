"""The table of `ring_collectives`, in the conventions of nccl-tests, and its files."""

import argparse
import csv
import json
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from galaxy_mpi.files import write_bytes
from galaxy_mpi.plot import curves_png
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs

__all__ = ["MACHINE", "describe", "show", "write"]

MACHINE = Machine.load("wormhole_galaxy_6u")

NARROW = (
    ("implementation", "11"), ("topology", "8"), ("size_bytes", ">9"), ("time_us", ">9.1f"),
    ("algbw_GBps", ">6.2f"), ("busbw_GBps", ">6.2f"), ("wrong", ">6"), ("device_time_us", ">8.2f"),
    ("device_busbw_GBps", ">6.2f"),
)  # fmt: skip
"""Columns of the table that fits 80 columns, below a line with op and axis; ``--wide`` has all."""

COLUMNS = {
    "implementation": ("made by", "", "12"),
    "op": ("", "", "15"),
    "axis": ("", "", "5"),
    "topology": ("", "", "8"),
    "ran_as": ("ran as", "", "31"),
    "links": ("", "", ">5"),
    "transport": ("", "", "9"),
    "size_bytes": ("size", "B", ">9"),
    "count": ("", "values", ">8"),
    "dtype": ("type", "", ">9"),
    "redop": ("", "", ">6"),
    "time_us": ("time", "us", ">9.1f"),
    "time_min_us": ("min", "us", ">9.1f"),
    "time_max_us": ("max", "us", ">9.1f"),
    "time_std_us": ("std", "us", ">8.1f"),
    "algbw_GBps": ("algbw", "GB/s", ">7.2f"),
    "busbw_GBps": ("busbw", "GB/s", ">7.2f"),
    "wrong": ("#wrong", "values", ">6"),
    "device_time_us": ("device", "us", ">8.2f"),
    "device_busbw_GBps": ("devbw", "GB/s", ">7.2f"),
    "device_peak_GBps": ("devpeak", "GB/s", ">7.2f"),
}
"""Of the table: name there, if another, unit and form."""


def describe(
    arguments: argparse.Namespace, one: Any, op: str, axis: Any, size: int, n: int, seconds: Any
) -> dict[str, Any]:
    """Return a row of the report; ``seconds`` by turn and rank."""
    n_bytes = size * n * 4
    choose = (lambda turn: turn[0], np.mean, np.min, np.max)[arguments.average]
    of_turns = np.array([choose(turn) for turn in seconds])
    taken = float(np.median(of_turns))
    algbw = n_bytes / taken / 1e9
    is_ours = one.name == "galaxy_mpi"
    topology = getattr(one, "topology", "direct")
    device_s, peak = device(op, size, n_bytes, topology, arguments.links)
    return {
        "implementation": one.name,
        "op": op,
        "axis": axis.group_name,
        "size_bytes": n_bytes,
        "count": size * n,
        "dtype": arguments.datatype if is_ours else "float",
        "redop": "none" if op == "all_gather" else arguments.op,
        "topology": topology if is_ours else "",
        "ran_as": one.ran_as if is_ours else "",
        "links": arguments.links if is_ours else "",
        "transport": arguments.transport if is_ours else one.transport,
        "time_us": taken * 1e6,
        "time_min_us": float(of_turns.min()) * 1e6,
        "time_max_us": float(of_turns.max()) * 1e6,
        "time_std_us": float(of_turns.std()) * 1e6,
        "algbw_GBps": algbw,
        "busbw_GBps": algbw * bus_factor(op, size),
        "device_time_us": device_s * 1e6,
        "device_busbw_GBps": n_bytes / device_s / 1e9 * bus_factor(op, size),
        "device_peak_GBps": peak / 1e9,
    }


def bus_factor(op: str, size: int) -> float:
    """Return busbw over algbw, as nccl-tests has it."""
    return (2 if op == "all_reduce" else 1) * (size - 1) / size


def device(op: str, size: int, n_bytes: int, topology: str, links: float) -> tuple[float, float]:
    """Return what the modelled machine would take, and the most busbw that its links allow.

    Launch, hops, the busiest link. In one step its own wires carry whole terms of an all-reduce to
    everybody; hop by hop it is a reduce-scatter and an all-gather of parts.

    Returns
    -------
    seconds, bytes per second
    """
    machine = MACHINE if topology == "direct" else replace(MACHINE, topology=topology)
    farthest = size // 2 if machine.topology == "ring" else size - 1
    laps = 2 if op == "all_reduce" and topology != "direct" else 1
    block = n_bytes if op == "all_reduce" and topology == "direct" else n_bytes / size
    wire_s = laps * Costs(machine).wire_s(size, block, links)
    own_s = laps * (machine.collective_s + farthest * machine.link_hop_s)
    most = n_bytes / wire_s * bus_factor(op, size) if wire_s else math.inf
    return own_s + wire_s, most


def show(rows: list[dict[str, Any]], *, is_wide: bool) -> None:
    """Print the newest row, and names and units before the first (of each op and axis)."""
    forms = {name: form for name, (_, _, form) in COLUMNS.items()} if is_wide else dict(NARROW)
    row, before = rows[-1], rows[-2] if len(rows) > 1 else {}
    titles = [] if is_wide else [f"{row['op']} within a {row['axis']}, {row['dtype']}"]
    if not before or (titles and any(row[key] != before[key] for key in ("op", "axis"))):
        widths = {name: form.split(".")[0] for name, form in forms.items()}
        for title in titles:
            print(f"# {title}")
        heads = (f"{COLUMNS[name][0] or name:{width}}" for name, width in widths.items())
        print("# " + " ".join(heads))
        print("# " + " ".join(f"{COLUMNS[name][1]:{width}}" for name, width in widths.items()))
    print("  " + " ".join(f"{row[name]:{form}}" for name, form in forms.items()), flush=True)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments as pages show them."""
    shown = {name: value for name, value in vars(arguments).items() if value is not None}
    return shown | {"axes": [axis.group_name for axis in arguments.axes]}


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print what ran otherwise than asked, ratios against peers; write the files asked for."""

    def times(name: str, topology: str) -> dict[tuple[Any, ...], float]:
        return {
            (r["op"], r["axis"], r["size_bytes"]): r["time_us"]
            for r in rows
            if r["implementation"] == name and r["topology"] == topology
        }

    others: dict[str, list[str]] = {}
    for r in rows:
        if r["ran_as"] != r["topology"]:
            shape = f"{r['op']} within a {r['axis']}, {r['size_bytes']} bytes"
            others.setdefault(r["ran_as"], []).append(shape)
    for words, shapes in others.items():
        print(f"# ran as {words}:")
        for shape in shapes:
            print(f"#   {shape}")
    ours = {r["topology"] for r in rows if r["topology"]}
    for peer in arguments.peers:
        theirs = times(peer, "")
        for topology in sorted(ours):
            mine = times("galaxy_mpi", topology)
            ratios = [mine[what] / theirs[what] for what in theirs]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            worst = max(ratios)
            print(f"# galaxy_mpi {topology} / {peer}: geometric mean {mean:.2f}, worst {worst:.2f}")
    if arguments.plot:
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            name = " ".join(filter(None, (row["op"], row["axis"], row["topology"])))
            name = f"{name} {row['implementation']}"
            lines.setdefault(name, []).append((row["size_bytes"], row["time_us"]))
        title = f"{arguments.mesh}, all groups of an axis at once"
        write_bytes(arguments.plot, curves_png(title, "bytes", "us", lines))
    if arguments.report:
        from galaxy_mpi.report import to_html  # here: only pages need it
        from galaxy_mpi.report.gather.collectives import collectives_page

        page = collectives_page(rows, ["ring_collectives", *sys.argv[1:]], settings(arguments))
        write_bytes(arguments.report, to_html(page).encode())
    if arguments.json:
        arguments.json.write_text(json.dumps({"schema_version": 1, "rows": rows}, indent=2) + "\n")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
