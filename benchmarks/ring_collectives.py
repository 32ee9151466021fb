"""Collectives of rows and columns, timed as nccl-tests does: ``mpirun -n 32 python ...``.

    mpirun -n 32 python benchmarks/ring_collectives.py -b 1K -e 1M -f 2 --peers mpi

Rings hop by hop and everything in one step, side by side; ``--topology`` asks for one way. All
groups of an axis run at once. A size is that of nccl-tests: of the whole result of an all-gather,
of the input of the reductions. Inputs are small integers, so that every result is exact in every
format, and ``#wrong`` counts values that are not.

Behind the host's figures are the device's: the time that the modelled machine would take with such
a topology and so many links, its busbw, and the most that its links allow.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

import numpy as np
from collective_peers import PEERS, group_comm
from collective_programs import DTYPES, REPETITIONS, Programs
from collective_report import MACHINE, describe, show, write

from galaxy_mpi.ccl.algorithms import COLLECTIVES
from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.files import check_page
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport, world_rank
from galaxy_mpi.mesh.transport import TRANSPORTS

OPS = ("all_gather", "reduce_scatter", "all_reduce")

SIDE_BY_SIDE = ("ring", "direct")

DECODE_SIZES = "2K,16K,68K,80K,119K"
"""Of the collectives of a decode layer, Llama-70B and Qwen3-32B on 8x4."""


def bytes_of(text: str) -> int:
    """Return a size such as 16K or 4M in bytes."""
    digits, factor = text, {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:].upper())
    if factor is not None:
        digits = text[:-1]
    if not digits.isdigit() or int(digits) < 1:
        raise ConfigError(f"a size is a number of bytes such as 2048, 16K or 1M; got {text!r}")
    return int(digits) * (factor or 1)


def names_of(what: str, text: str, known: Any) -> list[str]:
    """Return names separated by commas, all of them known."""
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"no {what} {name!r}; choose {', '.join(known)}")
    return names


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-b", "--minbytes", default="1K")
    add("-e", "--maxbytes", default="1M")
    add("-f", "--stepfactor", type=int, default=2)
    add("--sizes", help="exact sizes instead, as 2K,16K; decode: those of a layer's collectives")
    add("-n", "--iters", type=int, default=50)
    add("-w", "--warmup_iters", type=int, default=5)
    add("--turns", type=int, default=5, help="of all implementations; the median is told")
    add("-c", "--check", type=int, default=1, choices=(0, 1))
    add("-d", "--datatype", default="float", choices=list(DTYPES))
    add("-o", "--op", default="sum", choices=["sum"])
    add("-a", "--average", type=int, default=3, help="0 rank 0, 1 mean, 2 least, 3 most of ranks")
    add("--collectives", default=",".join(OPS), help="of " + ", ".join(OPS))
    add("--axes", default="row,column")
    add("--mesh", default="8x4")
    add("--topology", choices=list(COLLECTIVES), help="one way; ring and direct by default")
    add("--links", type=int, default=int(MACHINE.links), help="of the device between neighbours")
    add("--transport", default="auto", choices=TRANSPORTS)
    add("--peers", default="", help="mpi,gloo")
    add("--wide", action="store_true", help="all columns of --json, not those that fit 80")
    add("--json", type=Path)
    add("--csv", type=Path)
    add("--plot", type=Path, metavar="FILE.png")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    return parser


def settle(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with names looked up and sizes in bytes; refuse what there is not."""
    arguments.ops = names_of("collective", arguments.collectives, OPS)
    arguments.axes = [
        Axis.named(a) for a in names_of("axis", arguments.axes, [a.group_name for a in Axis])
    ]
    arguments.peers = names_of("peer", arguments.peers, PEERS)
    asked = DECODE_SIZES if arguments.sizes == "decode" else arguments.sizes
    sizes = [bytes_of(text) for text in asked.split(",")] if asked else []
    size, most = bytes_of(arguments.minbytes), bytes_of(arguments.maxbytes)
    if arguments.stepfactor < 2:
        raise ConfigError(f"--stepfactor must be at least 2, got {arguments.stepfactor}")
    for name in ("iters", "turns", "links"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if not 0 <= arguments.average <= 3:
        raise ConfigError(f"--average is 0, 1, 2 or 3; got {arguments.average}")
    while not asked and size <= most:
        sizes.append(size)
        size *= arguments.stepfactor
    if not (sizes and arguments.ops and arguments.axes):
        raise ConfigError("nothing to run: no size, no collective or no axis")
    arguments.sizes = sizes
    check_page(arguments.report)
    return arguments


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


def timed(run: Callable[[], np.ndarray], repeats: int, arguments: Any, comm: Any) -> np.ndarray:
    """Return each rank's seconds of an iteration, which runs all collectives in turn."""
    for _ in range(-(-arguments.warmup_iters // repeats)):
        run()
    n_runs = -(-arguments.iters // repeats)
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(n_runs):
        run()
    return np.array(comm.allgather((time.perf_counter() - began) / (n_runs * repeats)))


def main() -> int:
    arguments = settle(build_parser().parse_args())
    mesh = Mesh.parse(arguments.mesh)
    rows: list[dict[str, Any]] = []
    with MpiTransport.connect(mesh, kind=arguments.transport) as transport:
        comms = {axis: group_comm(mesh, axis) for axis in Axis}
        world, rank = comms[Axis.COLUMN].world, transport.rank
        topologies = [arguments.topology] if arguments.topology else SIDE_BY_SIDE
        ours = [Programs(transport, name, arguments.datatype) for name in topologies]
        peers = [PEERS[name](mesh, rank, comms) for name in arguments.peers]
        for axis in arguments.axes:
            comm, size = comms[axis].comm, mesh.size(axis)
            for op in arguments.ops:
                for n_bytes in arguments.sizes:
                    n = max(1, n_bytes // 4 // size)
                    values = inputs(size, n, rank)
                    others = comm.allgather(values)
                    runs, wrong = {}, {}
                    for one in (*ours, *peers):
                        runs[one] = one.call(op, axis, values)
                        found = count_wrong(op, runs[one](), others, comm.rank)
                        wrong[one] = int(world.allreduce(found)) if arguments.check else -1
                    # In turns: a machine whose speed drifts treats all alike.
                    turns = [
                        {
                            one: timed(run, REPETITIONS if one in ours else 1, arguments, world)
                            for one, run in runs.items()
                        }
                        for _ in range(arguments.turns)
                    ]
                    for one in runs:
                        seconds = np.array([turn[one] for turn in turns])
                        row = describe(arguments, one, op, axis, size, n, seconds)
                        rows.append(row | {"wrong": wrong[one]})
                        if rank == 0:
                            show(rows, is_wide=arguments.wide)
        for one in (*ours, *peers):
            one.close()
        if rank == 0:
            write(rows, arguments)
        return int(any(row["wrong"] > 0 for row in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        if world_rank() == 0:
            sys.exit(f"ring_collectives: {error}")
