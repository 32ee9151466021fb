"""Collectives of rows and columns, timed as nccl-tests does: ``mpirun -n 32 python ...``.

    mpirun -n 32 python benchmarks/ring_collectives.py -b 1K -e 1M -f 2 --peers mpi

All groups of an axis run at once. A size is that of nccl-tests: of the whole result of an
all-gather, of the input of the reductions. Inputs are small integers, so that every result is exact
in every format, and ``#wrong`` counts values that are not.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

import numpy as np
from collective_peers import PEERS, Mpi

from galaxy_mpi.ccl import (
    TOPOLOGIES,
    AllGather,
    AllReduce,
    GatheredBlocks,
    GatheredReduceScatter,
    ReduceScatter,
    all_reduce_at_once,
)
from galaxy_mpi.timing import Costs, Machine
from galaxy_mpi.dtypes import BF16, BFP8, FLOAT32
from galaxy_mpi.errors import UserError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport, world_rank
from galaxy_mpi.output import write_bytes
from galaxy_mpi.plot import curves_png

OPS = ("all_gather", "reduce_scatter", "all_reduce")
DTYPES = {"float": FLOAT32, "bfloat16": BF16, "bfp8": BFP8}
MACHINE = Machine.load("wormhole_galaxy_6u")

DECODE_SIZES = "2K,16K,68K,80K,119K"
"""Of the collectives of a decode layer, Llama-70B and Qwen3-32B on 8x4."""


class Ours:
    """The collectives of galaxy_mpi, two bound objects in turn as buffers are in a run."""

    name = "galaxy_mpi"

    def __init__(self, transport: MpiTransport, arguments: argparse.Namespace) -> None:
        self._group = transport.group
        self.transport = arguments.transport
        self._wires = TOPOLOGIES.get(arguments.topology)
        self._dtype, self._links = DTYPES[arguments.datatype], arguments.links
        self._bound: list[Any] = []

    def call(self, op: str, axis: Axis, values: np.ndarray) -> Callable[[], np.ndarray]:
        """Return what runs ``op`` on float32 values of this rank, (size, n)."""
        group, dtype = self._group(axis), self._dtype
        self.free()
        self._bound = [self._make(op, group, values.shape) for _ in range(2)]
        operand = dtype.pack(values[group.index]) if op == "all_gather" else values
        turn = list(self._bound)

        def run() -> np.ndarray:
            turn.reverse()
            return turn[0](operand)

        return run

    def _make(self, op: str, group: Any, shape: tuple[int, ...]) -> Any:
        """Return a bound collective: at once, or hop by hop over a topology."""
        common, dtype = {"num_links": self._links, "label": op}, self._dtype
        n_bytes = dtype.packed_bytes(shape[1:])
        if self._wires is None:
            if op == "all_gather":
                return GatheredBlocks(group, n_bytes, **common)
            if op == "reduce_scatter":
                return GatheredReduceScatter(group, shape[1:], dtype, **common)
            return all_reduce_at_once(group, shape, dtype, **common)
        wires = self._wires(group.size)
        if op == "all_gather":
            return AllGather(group, wires, n_bytes, **common)
        if op == "reduce_scatter":
            return ReduceScatter(group, wires, shape[1:], dtype, **common)
        return AllReduce(group, wires, wires, shape, dtype, **common)

    def unpacked(self, op: str, result: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return a result as values."""
        if op != "all_gather":
            return result
        return np.stack([self._dtype.unpack(block, values.shape[1:]) for block in result])

    def free(self) -> None:
        """Release what is bound, on all members at the same place."""
        for bound in self._bound:
            bound.free()
        if self._bound:
            for axis in Axis:
                self._group(axis).recycle()
        self._bound = []


def bytes_of(text: str) -> int:
    """Return a size such as 16K or 4M in bytes."""
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1].upper())
    return int(text[:-1]) * factor if factor else int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-b", "--minbytes", type=bytes_of, default=1024)
    add("-e", "--maxbytes", type=bytes_of, default=2**20)
    add("-f", "--stepfactor", type=int, default=2)
    add("--sizes", help="exact sizes instead, as 2K,16K; decode: those of a layer's collectives")
    add("-n", "--iters", type=int, default=50)
    add("-w", "--warmup_iters", type=int, default=5)
    add("--turns", type=int, default=5, help="of all implementations; the median is told")
    add("-c", "--check", type=int, default=1, choices=(0, 1))
    add("-d", "--datatype", default="float", choices=list(DTYPES))
    add("-o", "--op", default="sum", choices=["sum"])
    add("-a", "--average", type=int, default=3, help="0 rank 0, 1 mean, 2 least, 3 most of ranks")
    add("--collectives", default=",".join(OPS))
    add("--axes", default="COLS,ROWS")
    add("--mesh", default="8x4")
    add("--topology", default="direct", choices=["direct", *TOPOLOGIES])
    add("--links", type=int, default=4)
    add("--transport", default="auto")
    add("--peers", default="", help="mpi,gloo")
    add("--json", type=Path)
    add("--csv", type=Path)
    add("--plot", type=Path, metavar="FILE.png")
    return parser


def inputs(size: int, n: int, rank: int) -> np.ndarray:
    """Return small integers: sums over 32 ranks are exact in 7 bits."""
    return ((np.arange(size * n).reshape(size, n) + rank) % 3).astype(np.float32)


def count_wrong(op: str, found: np.ndarray, group: list[np.ndarray], index: int) -> int:
    """Return how many values of a result differ from numpy's."""
    if op == "all_gather":
        right = np.stack([values[i] for i, values in enumerate(group)])
    else:
        right = np.sum(group, axis=0)
        right = right[index] if op == "reduce_scatter" else right
    return int((found.reshape(right.shape) != right).sum())


def device_us(op: str, size: int, n_bytes: int) -> float:
    """Return what the modelled machine would take: launch, hops, the busiest wire."""
    block = n_bytes if op == "all_reduce" else n_bytes / size
    hops = size // 2 * MACHINE.link_hop_s
    return (MACHINE.collective_s + hops + Costs(MACHINE).wire_s(size, block, MACHINE.links)) * 1e6


def timed(run: Callable[[], np.ndarray], arguments: argparse.Namespace, comm) -> np.ndarray:
    """Return each rank's seconds of an iteration: the whole of them, one behind the other."""
    for _ in range(arguments.warmup_iters):
        run()
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(arguments.iters):
        run()
    return np.array(comm.allgather((time.perf_counter() - began) / arguments.iters))


def main() -> int:
    arguments = build_parser().parse_args()
    mesh = Mesh.parse(arguments.mesh)
    asked = DECODE_SIZES if arguments.sizes == "decode" else arguments.sizes
    sizes = [bytes_of(text) for text in asked.split(",")] if asked else []
    size = arguments.minbytes
    while not arguments.sizes and size <= arguments.maxbytes:
        sizes.append(size)
        size *= arguments.stepfactor
    rows = []
    with MpiTransport.connect(mesh, kind=arguments.transport) as transport:
        comm = transport._comm
        peers = [PEERS[name](transport) for name in arguments.peers.split(",") if name]
        ours = Ours(transport, arguments)
        for axis_name in arguments.axes.split(","):
            axis = Axis[axis_name]
            group = transport.group(axis)
            for op in arguments.collectives.split(","):
                for n_bytes in sizes:
                    n = max(1, n_bytes // 4 // group.size)
                    values = inputs(group.size, n, transport.rank)
                    others = group.comm.allgather(values)
                    runs, wrong = {}, {}
                    for one in (ours, *peers):
                        runs[one] = one.call(op, axis, values)
                        result = runs[one]()
                        if one is ours:
                            result = ours.unpacked(op, result, values)
                        found = count_wrong(op, result, others, group.index)
                        wrong[one] = int(comm.allreduce(found)) if arguments.check else -1
                    # In turns: a machine whose speed drifts treats all alike.
                    turns = [
                        {one: timed(run, arguments, comm) for one, run in runs.items()}
                        for _ in range(arguments.turns)
                    ]
                    for one in runs:
                        seconds = np.array([turn[one] for turn in turns])
                        row = describe(arguments, one, op, axis, group.size, n, seconds)
                        rows.append(row | {"wrong": wrong[one]})
                        if transport.rank == 0:
                            show(rows)
        ours.free()
        for peer in peers:
            if not isinstance(peer, Mpi):
                peer.close()
        if transport.rank == 0:
            write(rows, arguments)
        return int(any(row["wrong"] > 0 for row in rows))


def describe(arguments, implementation, op, axis, size, n, seconds) -> dict:
    """Return a row of the report; ``seconds`` by turn and rank."""
    n_bytes = size * n * 4
    choose = (lambda turn: turn[0], np.mean, np.min, np.max)[arguments.average]
    of_turns = np.array([choose(turn) for turn in seconds])
    taken = float(np.median(of_turns))
    algbw = n_bytes / taken / 1e9
    factor = (2 if op == "all_reduce" else 1) * (size - 1) / size
    is_ours = implementation.name == "galaxy_mpi"
    return {
        "implementation": implementation.name,
        "op": op,
        "axis": axis.name,
        "size_bytes": n_bytes,
        "count": size * n,
        "dtype": arguments.datatype if is_ours else "float",
        "redop": "none" if op == "all_gather" else arguments.op,
        "topology": arguments.topology if is_ours else "",
        "links": arguments.links if is_ours else "",
        "transport": implementation.transport,
        "time_us": taken * 1e6,
        "time_min_us": float(of_turns.min()) * 1e6,
        "time_max_us": float(of_turns.max()) * 1e6,
        "time_std_us": float(of_turns.std()) * 1e6,
        "algbw_GBps": algbw,
        "busbw_GBps": algbw * factor,
        "device_time_us": device_us(op, size, n_bytes),
    }


COLUMNS = {
    "implementation": ("", "12"),
    "op": ("", "15"),
    "axis": ("", "5"),
    "topology": ("", "7"),
    "links": ("", ">5"),
    "transport": ("", "9"),
    "size_bytes": ("size", ">9"),
    "count": ("", ">8"),
    "dtype": ("type", ">9"),
    "redop": ("", ">6"),
    "time_us": ("time", ">9.1f"),
    "time_min_us": ("min", ">9.1f"),
    "time_max_us": ("max", ">9.1f"),
    "time_std_us": ("std", ">8.1f"),
    "algbw_GBps": ("algbw", ">7.2f"),
    "busbw_GBps": ("busbw", ">7.2f"),
    "wrong": ("#wrong", ">6"),
    "device_time_us": ("device", ">8.2f"),
}
"""Of the table: name there, if another, and form. Times in us, bandwidths in GB/s."""


def show(rows: list[dict]) -> None:
    """Print the newest row, and the head before the first."""
    if len(rows) == 1:
        heads = (f"{head or name:{form.split('.')[0]}}" for name, (head, form) in COLUMNS.items())
        print("# " + " ".join(heads))
    cells = (f"{rows[-1][name]:{form}}" for name, (_, form) in COLUMNS.items())
    print("  " + " ".join(cells), flush=True)


def write(rows: list[dict], arguments: argparse.Namespace) -> None:
    """Print ratios against each peer, and write the files that were asked for."""
    ours = {
        (r["op"], r["axis"], r["size_bytes"]): r["time_us"]
        for r in rows
        if r["implementation"] == Ours.name
    }
    for peer in filter(None, arguments.peers.split(",")):
        ratios = [
            ours[r["op"], r["axis"], r["size_bytes"]] / r["time_us"]
            for r in rows
            if r["implementation"] == peer
        ]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"# galaxy_mpi / {peer}: geometric mean {mean:.2f}, worst {max(ratios):.2f}")
    if arguments.plot:
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            name = f"{row['op']} {row['axis']} {row['implementation']}"
            lines.setdefault(name, []).append((row["size_bytes"], row["time_us"]))
        title = f"{arguments.mesh}, all groups of an axis at once"
        write_bytes(arguments.plot, curves_png(title, "bytes", "us", lines))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        if world_rank() == 0:
            sys.exit(f"ring_collectives: {error}")
