"""How long it takes to say what a step takes: ``python benchmarks/estimate_step.py``.

Host time of estimates of device time, without weights, ranks or values: the program of a decode
step, the first step of it, and one at a position that was not asked for before. And what a chip's
clock costs a run at each collective. Medians; to be compared with each other in one run only.
"""

import argparse
import statistics
import time

import numpy as np

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PRECISIONS, SYSTEMS, PassShape, system_of
from galaxy_mpi.timing import ChipClock, Costs, Machine, Tape
from galaxy_mpi.timing.estimator import Estimator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama3-70b", choices=PRESETS)
    parser.add_argument("--mesh", default="8x4", metavar="RxC")
    parser.add_argument("--machine", default="wormhole_galaxy_6u")
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    model, mesh = PRESETS[arguments.model], Mesh.parse(arguments.mesh)
    machine = Machine.load(arguments.machine)
    print(f"{arguments.model}, {model.n_layers} layers, {mesh}; host time, medians")
    head = ("program", "first step", "new step", "prefill", "a collective")
    print(f"{'':<18}" + "".join(f"{name:>15}" for name in head))
    for name in SYSTEMS:
        system = system_of(name, mesh)
        makes, firsts, news, passes = [], [], [], []
        for turn in range(arguments.turns):
            began = time.perf_counter()
            programs = Programs(model, mesh, system, PRECISIONS["performance"], users=32)
            programs.decode()
            makes.append(time.perf_counter() - began)
            estimator = Estimator(programs, machine)
            firsts.append(seconds_of(lambda e=estimator: e.step([127] * e.programs.mesh.cols)))
            at = 160 + 32 * turn
            news.append(seconds_of(lambda e=estimator, p=at: e.step([p] * e.programs.mesh.cols)))
            passes.append(seconds_of(lambda e=estimator: e.prefill(PassShape.of_prompt(128))))
        cells = [f"{statistics.median(of) * 1e3:.2f} ms" for of in (makes, firsts, news, passes)]
        cells.append(f"{crossing_s(programs, machine, arguments.turns) * 1e6:.2f} us")
        print(f"{name:<18}" + "".join(f"{cell:>15}" for cell in cells))


def seconds_of(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def crossing_s(programs: Programs, machine: Machine, turns: int) -> float:
    """Return what a chip's clock takes at a collective, and for what is behind it."""
    tape = Tape(programs.decode(), Costs(programs.on(machine)))
    clock = ChipClock(tape, programs.mesh, 0)
    times = {axis: np.zeros(programs.mesh.size(axis)) for axis in Axis}
    axes = [cross.wire.axis for cross in tape.crosses if not cross.rides]
    taken = []
    for _ in range(turns):
        clock.start([127] * programs.mesh.cols)
        began = time.perf_counter()
        for axis in axes:
            clock.enter(times[axis], 0)
            clock.leave(times[axis])
        taken.append((time.perf_counter() - began) / len(axes))
    return statistics.median(taken)


if __name__ == "__main__":
    main()
