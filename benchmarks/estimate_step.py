"""How long it takes to say what a step takes: ``python benchmarks/estimate_step.py``.

Host time of estimates of device time, without weights, ranks or values: the program of a decode
step, the first step of it, and one at a position that was not asked for before. Medians;
to be compared with each other in one run only.
"""

import argparse
import statistics
import time

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PRECISIONS, SYSTEMS, PassShape, system_of
from galaxy_mpi.timing import Machine
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
    head = ("program", "first step", "new step", "prefill")
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
        print(f"{name:<18}" + "".join(f"{cell:>15}" for cell in cells))


def seconds_of(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
