"""``--check``: what may be written again is, so who reads too late sees NaN."""

import numpy as np
import pytest

from galaxy_mpi.ccl.algorithms import COLLECTIVES, DIRECT
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_plane import LocalPlane
from galaxy_mpi.program import Binder, Op, Program, bind_program
from tests.collectives import wire_of

SHAPE = (2, 4)


class LateReader(Op):
    """Gathers, and reads the result when so many other collectives have been bound.

    Whoever has bound a collective may write to it as soon as the one before has been passed.
    """

    def __init__(self, n_later: int) -> None:
        super().__init__("late")
        self._n_later = n_later

    def wires(self):
        return (wire_of(Kind.ALL_GATHER, FLOAT32, SHAPE),) * (2 + self._n_later)

    def charges(self, costs):
        return iter(())

    def bind(self, chip, values):
        out = np.empty((2, *SHAPE), np.float32)
        result = None
        for number, wire in enumerate(self.wires()):
            bound = chip.collective(wire)
            if number == 1 + self._n_later and result is not None:
                chip.call(np.copyto, out, result)
            chip.call(np.copyto, bound.term, values)
            crossed = bound.cross()
            result = crossed if number == 1 else result
        if self._n_later == 0:
            chip.call(np.copyto, out, result)
        return out


def run(op: Op, algorithms, *, poisons: bool) -> np.ndarray:
    mesh, program = Mesh(1, 2), Program()
    values = program.input("values", *SHAPE)
    program.results["out"] = op.record(program, (values,), out=(2, *SHAPE))[0]
    planes = {axis: LocalPlane(mesh, axis) for axis in Axis}
    chips = [Binder(mesh, rank, planes, algorithms, poisons=poisons) for rank in range(2)]
    inputs = [{"values": np.full(SHAPE, 1.0 + rank, np.float32)} for rank in range(2)]
    bound = bind_program(program, chips, inputs, planes)
    bound.run()
    bound.run()
    return np.stack(bound.results("out"))


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_result_may_be_read_until_the_next_collective(name):
    got = run(LateReader(0), COLLECTIVES[name], poisons=True)
    np.testing.assert_array_equal(got[:, 0], np.full((2, *SHAPE), 1.0))
    np.testing.assert_array_equal(got[:, 1], np.full((2, *SHAPE), 2.0))


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize(("n_later", "is_gone"), [(1, False), (2, True)])
def test_behind_the_next_collective_a_result_is_gone(name, n_later, is_gone):
    """Collectives 0, 1, 2, 3, 4 lie in slots 2, 0, 1, 0, 1: the result of the second is read."""
    late, algorithms = LateReader(n_later), COLLECTIVES[name]
    assert np.isfinite(run(late, algorithms, poisons=False)).all()
    gone = np.isnan(run(late, algorithms, poisons=True))
    assert gone.all() if is_gone else not gone.any()  # its own row and the other's


def test_an_array_that_was_given_back_shows_as_nan():
    class First(Op):
        def charges(self, costs):
            return iter(())

        def bind(self, chip, values):
            taken[chip.rank] = chip.array(*SHAPE)
            chip.call(np.copyto, taken[chip.rank], values)
            out = chip.array(1, 4)
            chip.call(np.copyto, out, taken[chip.rank][:1])
            return out

    class Second(First):
        def bind(self, chip, values):
            out = np.empty(SHAPE, np.float32)
            chip.call(np.copyto, out, taken[chip.rank])
            return out

    def run_both(*, poisons):
        mesh, program = Mesh(1, 1), Program()
        values = program.input("values", *SHAPE)
        First("first").record(program, (values,), out=(1, 4))
        program.results["out"] = Second("second").record(program, (values,), out=SHAPE)[0]
        planes = {axis: LocalPlane(mesh, axis) for axis in Axis}
        chip = Binder(mesh, 0, planes, DIRECT, poisons=poisons)
        bound = bind_program(program, [chip], [{"values": np.ones(SHAPE, np.float32)}], planes)
        bound.run()
        return bound.results("out")[0]

    taken: dict[int, np.ndarray] = {}
    assert (run_both(poisons=False) == 1).all()
    assert np.isnan(run_both(poisons=True)).all()
