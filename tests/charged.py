"""Programs that are nothing but charges, for tests of clocks."""

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.dtypes import BFP8
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cross, Op, Program
from galaxy_mpi.timing.tape import Tape


class Charged(Op):
    """An op that is charged what it is told."""

    def __init__(self, *charges):
        super().__init__("charged")
        self._charges = charges
        self.free = ()

    def free_wires(self):
        return self.free

    def wires(self):
        return tuple(charge.wire for charge in self._charges if isinstance(charge, Cross))

    def charges(self, costs):
        return iter(self._charges)

    def bind(self, chip, *inputs):
        return ()


def cross(name, axis, own_s, wire_s, *, key=None, **more):
    """Return the charge of an all-gather."""
    wire = Wire(key or name.upper(), axis, Kind.ALL_GATHER, BFP8, (32, 32))
    return Cross(name, wire, own_s, wire_s, **more)


def program_of(*charges):
    """Return a program with one op for each charge or tuple of charges."""
    program = Program()
    for of_op in charges:
        op = Charged(*((of_op,) if isinstance(of_op, Charge) else of_op))
        op.record(program, ())
    return program


def tape_of(costs, *charges, capacity_bytes=None):
    """Return the tape of such a program."""
    return Tape(program_of(*charges), costs, capacity_bytes)


__all__ = ["Axis", "Charged", "cross", "program_of", "tape_of"]
