"""What a trace shows of a program on all chips: layers, ops and their charges, by name."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Cross, Kernel, Take
from galaxy_mpi.program.op import Use
from galaxy_mpi.timing.trace import COMPUTE, PREFETCH, PROGRAM, WAITING, Trace, layer_name

__all__ = ["ProgramSpans", "Watcher"]

Seconds = NDArray[np.float64]

NOISE_S = 1e-12
"""Below which a difference is of rounding."""


class Watcher(Protocol):
    """What the mesh clock reports while it plays a program; arrays are of shape (R, C)."""

    def at(self, place: int, now: Seconds) -> None:
        """Go on to a charge, by its place in the tape."""

    def kernel(self, kernel: Kernel, begin: Seconds, end: Seconds, spent: object) -> None:
        """Note work on the cores."""

    def cross(
        self,
        cross: Cross,
        begin: Seconds,
        ends: tuple[Seconds, Seconds],
        waited_s: Seconds,
        n_bytes: float,
    ) -> None:
        """Note a collective, see `ProgramSpans.cross`."""

    def take(self, take: Take, read: tuple[Seconds, Seconds], wanted: Seconds) -> None:
        """Note the read of a weight, see `ProgramSpans.take`."""

    def consumed(self, now: Seconds, n_bytes: float) -> None:
        """Note that a weight leaves the circular buffers."""

    def end(self, now: Seconds) -> None:
        """End the pass or step."""


class ProgramSpans:
    """Notes one pass or step in a trace while a clock goes through its charges.

    Parameters
    ----------
    trace : Trace
    mesh : Mesh
    uses : sequence of Use
        The op of each charge.
    """

    def __init__(self, trace: Trace, mesh: Mesh, uses: Sequence[Use]) -> None:
        self.trace, self._mesh, self._uses = trace, mesh, uses
        self._use: Use | None = None
        self._n_taken = 0
        """Weights that the op has taken."""
        zero = np.zeros((mesh.rows, mesh.cols))
        self._op_begin: Seconds = zero
        self._layer_begin: Seconds = zero

    def at(self, place: int, now: Seconds) -> None:
        """Go on to a charge: the op before it may have ended, and its layer."""
        use = self._uses[place]
        if use is self._use:
            return
        self._end_op(now)
        if self._use is None or use.layer != self._use.layer:
            self._end_layer(now)
            self._layer_begin = now
        self._use, self._op_begin, self._n_taken = use, now, 0

    def end(self, now: Seconds) -> None:
        """End the pass or step."""
        self._end_op(now)
        self._end_layer(now)
        self.trace.add(PROGRAM, self.trace.title, np.zeros_like(now), now)

    def kernel(self, kernel: Kernel, begin: Seconds, end: Seconds, spent: object) -> None:
        """Note work on the cores."""
        self.trace.add(COMPUTE, kernel.name, begin, end, cores=kernel.cores, **self._about(spent))

    def cross(
        self,
        cross: Cross,
        begin: Seconds,
        ends: tuple[Seconds, Seconds],
        waited_s: Seconds,
        n_bytes: float,
    ) -> None:
        """Note a collective, and which chips waited for which.

        Parameters
        ----------
        cross : Cross
        begin : ndarray of shape (R, C)
        ends : pair of ndarray of shape (R, C)
            Of the messages, and of the op.
        waited_s : ndarray of shape (R, C)
            Seconds that each chip waited for the one that came last, beyond what signals take.
        n_bytes : float
            Of the busiest link.
        """
        wire, trace, (sent, end) = cross.wire, self.trace, ends
        trace.collective(cross.name, wire.axis, begin, sent, n_bytes)
        about = self._about(cross.beside_s) | {
            "wire": str(wire),
            "format": wire.dtype.name,
            "link_bytes": n_bytes,
        }
        trace.add(COMPUTE, cross.name, begin, end, cores=cross.cores, **about)
        along = 0 if wire.axis is Axis.COLUMN else 1
        last = begin.argmax(axis=along)
        for row, col in np.argwhere(waited_s > NOISE_S).tolist():
            of_last = (int(last[col]), col) if along == 0 else (row, int(last[row]))
            if of_last != (row, col):
                rank, other = self._mesh.rank(row, col), self._mesh.rank(*of_last)
                start_s, stop_s = (
                    float(begin[row, col]),
                    float(begin[row, col] + waited_s[row, col]),
                )
                about = {"for": f"chip ({of_last[0]}, {of_last[1]})"} | self._where
                trace.span(rank, WAITING, cross.name, start_s, stop_s, **about)
                trace.waits_for(cross.name, rank, start_s, other, float(begin[of_last]))

    def take(self, take: Take, read: tuple[Seconds, Seconds], wanted: Seconds) -> None:
        """Note the read of a weight, and the op that waited for it.

        Parameters
        ----------
        take : Take
        read : pair of ndarray of shape (R, C)
            When the read begins and ends.
        wanted : ndarray of shape (R, C)
            When the matmul wants it.
        """
        assert self._use is not None
        matrices = self._use.op.matrices()
        name, about = self._use.op.name, dict[str, object]()
        if self._n_taken < len(matrices):
            matrix = matrices[self._n_taken]
            name = str(matrix.weight)
            about = {"format": matrix.dtype.name, "shape": f"({matrix.rows}, {matrix.columns})"}
        self._n_taken += 1
        where = layer_name(self._use.layer)
        name = name if where == "head" else f"{where} {name}"
        begin, end = read
        self.trace.fills(begin, take.n_bytes)
        self.trace.add(PREFETCH, name, begin, end, bytes=take.n_bytes, **about)
        self.trace.add(WAITING, name, wanted, np.maximum(wanted, end), **{"for": "prefetch"})

    def consumed(self, now: Seconds, n_bytes: float) -> None:
        """Note that a weight leaves the circular buffers."""
        self.trace.fills(now, -n_bytes)

    @property
    def _where(self) -> dict[str, object]:
        assert self._use is not None
        return {"op": self._use.op.name, "layer": layer_name(self._use.layer)}

    def _about(self, spent: object) -> dict[str, object]:
        """Return what an op is part of, and what its seconds were spent on."""
        about = self._where
        if hasattr(spent, "bound"):
            about["bound"] = spent.bound.value
        for name in ("dram_bytes", "flops"):
            if getattr(spent, name, 0.0):
                about[name] = getattr(spent, name)
        return about

    def _end_op(self, now: Seconds) -> None:
        if self._use is not None:
            layer = layer_name(self._use.layer)
            self.trace.add(PROGRAM, self._use.op.name, self._op_begin, now, layer=layer)

    def _end_layer(self, now: Seconds) -> None:
        if self._use is not None:
            self.trace.add(PROGRAM, layer_name(self._use.layer), self._layer_begin, now)
