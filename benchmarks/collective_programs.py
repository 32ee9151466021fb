"""The collectives of galaxy_mpi for `ring_collectives`: each a program of a few repetitions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from galaxy_mpi.ccl.algorithms import COLLECTIVES
from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.dtypes import BF16, BFP8, FLOAT32, TILE
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Binder, BoundProgram, Op, Program, bind_program

__all__ = ["DTYPES", "REPETITIONS", "Programs"]

DTYPES = {"float": FLOAT32, "bfloat16": BF16, "bfp8": BFP8}

REPETITIONS = 4
"""Of a collective in a program, as layers follow each other: they take memory in turns."""


class _Repeated(Op):
    """Copies its input to a collective and crosses, again and again."""

    def __init__(self, wire: Wire) -> None:
        super().__init__("repeated")
        self._wire = wire

    def wires(self) -> tuple[Wire, ...]:
        return (self._wire,) * REPETITIONS

    def charges(self, costs: Any) -> Any:
        return iter(())

    def bind(self, chip: Binder, values: np.ndarray) -> np.ndarray:
        for _ in range(REPETITIONS):
            bound = chip.collective(self._wire, by_rows=True)
            chip.call(np.copyto, bound.term, values.reshape(bound.term.shape))
            result = bound.cross()
        return result


class Programs:
    """Collectives in one of the ways of `COLLECTIVES`."""

    name = "galaxy_mpi"

    def __init__(self, transport: Any, topology: str, datatype: str) -> None:
        self._planes = {axis: transport.plane(axis) for axis in Axis}
        self._mesh, self._rank = transport.mesh, transport.rank
        self.topology, self._dtype = topology, DTYPES[datatype]
        self.dtype = datatype
        self._bound: BoundProgram | None = None
        self.ran_as = ""
        """The way of the collective that is bound, see `Algorithms.words`."""

    def call(self, op: str, axis: Axis, values: np.ndarray) -> Callable[[], np.ndarray]:
        """Return what runs ``op`` REPETITIONS times on float32 values of this rank, (size, n)."""
        self.close()
        size, n = values.shape
        rows = 1 if self._dtype.packed_bytes((1, 1)) < TILE else math.gcd(n, TILE)
        block, kind = (rows, n // rows), Kind(op)
        whole = (size * rows, n // rows) if rows > 1 else (1, size * n)
        wire = Wire(
            "BENCHMARK", axis, kind, self._dtype, whole if kind is Kind.ALL_REDUCE else block
        )
        operand = values[self._mesh.index(self._rank, axis)] if kind is Kind.ALL_GATHER else values
        program = Program()
        given = program.input("values", *operand.shape)
        shape = (size, *block) if kind is Kind.ALL_GATHER else wire.sent
        program.results["result"] = _Repeated(wire).record(program, (given,), out=shape)[0]
        chip = Binder(self._mesh, self._rank, self._planes, COLLECTIVES[self.topology])
        bound = bind_program(program, [chip], [{"values": operand}], self._planes)
        self._bound, self.ran_as = bound, chip.ran_as()[wire.key]

        def run() -> np.ndarray:
            bound.run()
            result: np.ndarray = bound.results("result")[0]
            return result

        return run

    def close(self) -> None:
        """Give back what is bound, on all ranks at the same place."""
        if self._bound is not None:
            self._bound.free()
        self._bound = None
