"""Programs of collectives over real ranks, with one chip a rank and several, on one host or more.

Operands are small integers, so every sum is exact; memory is poisoned as soon as it may be, so
whatever is read too late shows as NaN.
"""

import random
import time

import numpy as np
import pytest
from mpi4py import MPI

from galaxy_mpi.ccl.algorithms import COLLECTIVES, GALAXY_PREFILL, GENERIC_DECODE
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import BFP8, FLOAT32
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.mesh.planes import HOSTS_VARIABLE
from galaxy_mpi.program import Binder, bind_program
from tests.collectives import Clock, program_of, wire_of
from tests.conftest import exact_operand

SIZE = MPI.COMM_WORLD.size

pytestmark = pytest.mark.mpi(min_size=2)

KINDS = {"shared": ("shared", 1), "mpi": ("mpi", 1), "two hosts": ("auto", 2)}

MESHES = {
    2: [("1x2", 1), ("2x1", 1), ("2x2", 2), ("4x2", 4), ("2x3", 3)],
    4: [("2x2", 1), ("1x4", 1), ("4x2", 2), ("3x4", 3)],
    8: [("8x1", 1), ("4x4", 2)],
    32: [("8x4", 1)],
}

WAYS = [*COLLECTIVES.values(), GALAXY_PREFILL, GENERIC_DECODE]

SHAPE = (6, 48)


def pause(chance: random.Random) -> None:
    time.sleep(chance.choice([0, 0, 0, 0.001]))


def right_of(kind: Kind, terms: list[np.ndarray], index: int) -> np.ndarray:
    """Return what member ``index`` of a group gets."""
    if kind is Kind.ALL_GATHER:
        return np.stack(terms)
    total = sum(terms)
    if kind is Kind.ALL_REDUCE:
        return total
    width = SHAPE[1] // len(terms)
    return total[:, index * width : (index + 1) * width]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [FLOAT32, BFP8], ids=lambda d: d.name)
@pytest.mark.parametrize(("text", "chips_per_rank"), MESHES.get(SIZE, [(f"1x{SIZE}", 1)]))
def test_all_collectives_over_both_axes(kind, dtype, text, chips_per_rank, monkeypatch):
    mesh, (transport_kind, hosts) = Mesh.parse(text), KINDS[kind]
    monkeypatch.setenv(HOSTS_VARIABLE, str(hosts))
    asked = []
    for axis in Axis:
        width = SHAPE[1] // mesh.size(axis)
        for way in WAYS:
            for what in Kind:
                shape = (SHAPE[0], width) if what is Kind.REDUCE_SCATTER else SHAPE
                asked.append((way, wire_of(what, dtype, shape, axis)))

    def bind_to(way, wire):
        def bind(chip):
            chip.call(pause, chance)
            return way.bind(chip, wire)

        return bind

    with MpiTransport.connect(mesh, kind=transport_kind, chips_per_rank=chips_per_rank) as one:
        chance = random.Random(one.rank)
        planes = {axis: one.plane(axis) for axis in Axis}
        clocks = [Clock(float(chip)) for chip in one.chips]
        chips = [
            Binder(mesh, chip, planes, None, clock=clock, poisons=True)
            for chip, clock in zip(one.chips, clocks, strict=True)
        ]
        values = [np.zeros(SHAPE, np.float32) for _ in one.chips]
        program = program_of([bind_to(*what) for what in asked], SHAPE)
        bound = bind_program(program, chips, [{"values": v} for v in values], planes)
        for turn in range(3):
            for chip, array in zip(one.chips, values, strict=True):
                array[...] = exact_operand(100 * turn + chip, SHAPE)
            bound.run()
            for number, (_, wire) in enumerate(asked):
                results = bound.results(f"r{number}")
                for chip, got in zip(one.chips, results, strict=True):
                    group = mesh.group(chip, wire.axis)
                    terms = [exact_operand(100 * turn + member, SHAPE) for member in group]
                    index = mesh.index(chip, wire.axis)
                    np.testing.assert_array_equal(got, right_of(wire.kind, terms, index))
        bound.free()
        for chip, clock in zip(one.chips, clocks, strict=True):
            assert clock.left == list(mesh.group(chip, Axis.COLS))
            skipped = sum(mesh.size(axis) == 1 for axis in Axis) * len(Kind)
            assert clock.n_left == 3 * (len(asked) - skipped)
