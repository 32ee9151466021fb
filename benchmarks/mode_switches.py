"""Memory and time of switching between prefill and decode, again and again.

    mpirun -n 4 python benchmarks/mode_switches.py [--switches N] [--mesh RxC]

Every round prefills one user (3 tokens) and decodes one step. A line per tenth: the largest
proportional set size of a rank, and seconds per round. The programs of both modes are bound once
and kept, so a switch itself costs nothing.
"""

from __future__ import annotations

import argparse
import time

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

from galaxy_mpi.config import RunConfig  # noqa: E402
from galaxy_mpi.engine import Engine  # noqa: E402
from galaxy_mpi.engine.memory import proportional_set_bytes  # noqa: E402
from galaxy_mpi.mesh import Mesh  # noqa: E402
from galaxy_mpi.mesh.mpi import MpiTransport  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--mesh", default="2x2")
    arguments = parser.parse_args()
    mesh, tenth = Mesh.parse(arguments.mesh), max(2, arguments.switches // 10)
    run = RunConfig(
        mesh=mesh,
        batch=mesh.cols,
        max_new_tokens=2,
        prompt_tokens=((1, 2, 3),) * (arguments.switches // 2 + 1),
    )
    with MpiTransport.connect(mesh) as transport, Engine(run, transport) as engine:
        scheduler = engine.new_scheduler()
        if transport.rank == 0:
            print(f"mesh {mesh}\nswitches  MiB of a rank  ms a round")
        began, shown = time.perf_counter(), 0
        while len(engine.times.switch_s) < arguments.switches:
            engine.prefill(scheduler, scheduler.next_prefill())
            engine.decode(scheduler)
            done = len(engine.times.switch_s)
            if done - shown >= tenth:
                now = time.perf_counter()
                sizes = transport.gather(proportional_set_bytes())
                if sizes is not None:
                    each_ms = (now - began) / ((done - shown) / 2) * 1e3
                    print(f"{done:>8}{max(sizes) / 2**20:>15.1f}{each_ms:>12.0f}", flush=True)
                began, shown = time.perf_counter(), done


if __name__ == "__main__":
    main()
