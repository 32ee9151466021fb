"""Detect invalid values where they first appear.

These are taps (`galaxy_mpi.program.Tap`). Logits are checked in every run; ``--check`` checks the
output of every op, and compares replicas.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Array
from galaxy_mpi.errors import ValuesError, common
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.program import Binder, Cut, Program, Tap, Tensor, Use

__all__ = ["Replicas", "finite", "finite_logits", "logits_of"]

Key = tuple[int, str]
"""Number of an op in its program, and name of its output."""


def logits_of(program: Program) -> Tensor | None:
    """Return the logits of a program: the input of its last op, or its output."""
    if "row_logits" in program.results:
        return program.results["row_logits"]
    made = [made for made in program.uses[-1].inputs if isinstance(made, Tensor)]
    return made[0] if made else None


def finite_logits(program: Program) -> Tap:
    """Return a tap that checks the logits."""
    logits = logits_of(program)

    def tap(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
        for tensor, values in zip(use.outputs, outputs, strict=True):
            if tensor is logits:
                flags = np.empty(values.shape, np.bool_)
                note = "run with --check to find the op that caused it"
                chip.call(_require_finite, values, flags, note)

    return tap


def finite(program: Program) -> Tap:
    """Return a tap that checks the output of every op, except candidates, which may be padding."""
    candidates = [program.results.get(name) for name in ("values", "tokens")]

    def tap(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
        for tensor, values in zip(use.outputs, outputs, strict=True):
            if tensor not in candidates:
                name = tensor.name.removeprefix(f"{use.op.name}.")
                flags = np.empty(values.shape, np.bool_)
                chip.call(_require_finite, values, flags, f"its output {name}")

    return tap


def _require_finite(values: Array, is_finite: NDArray[np.bool_], note: str) -> None:
    if not np.isfinite(values, is_finite).all():
        place = tuple(np.argwhere(~is_finite)[0].tolist())
        n_bad = values.size - int(np.count_nonzero(is_finite))
        raise ValuesError(
            f"{n_bad} of {values.size} values are not finite, the first of them "
            f"{values[place]} at {place} of {values.shape}; {note}"
        )


class Replicas:
    """Compares replicas on different chips, after every pass and step.

    Only digests are sent, of each output with known sharding (`Op.cuts`).

    Parameters
    ----------
    mesh : Mesh
    transport : Transport
    """

    def __init__(self, mesh: Mesh, transport: Transport) -> None:
        self._mesh, self._transport = mesh, transport
        self._digests: dict[tuple[Key, int], bytes] = {}

    def tap(self, program: Program) -> Tap:
        """Return a tap that records digests of each chip's outputs."""
        numbers = {id(use): number for number, use in enumerate(program.uses)}

        def tap(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
            cuts = use.op.cuts()
            for (name, _), values in zip(use.named_outputs(), outputs, strict=True):
                if name in cuts:
                    key = (numbers[id(use)], name), chip.rank
                    chip.call(self._note, key, values)

        return tap

    def start(self, mode: str) -> None:
        """Do nothing: digests of the previous run have been compared."""

    def end(self, program: Program) -> None:
        """Compare the chips of all processes. Collective.

        Raises
        ------
        ValuesError
            On all ranks, if replicas differ.
        """
        parts = self._transport.gather(self._digests)
        self._digests = {}
        found = {key: digest for part in parts or () for key, digest in part.items()}
        self._transport.from_root(lambda: self._require_equal(program, found))

    def _note(self, key: tuple[Key, int], values: Array) -> None:
        from hashlib import blake2b  # imported here: only for --check, and it loads OpenSSL

        content = np.ascontiguousarray(values)
        self._digests[key] = blake2b(content.view(np.uint8).data, digest_size=8).digest()

    def _require_equal(self, program: Program, found: dict[tuple[Key, int], bytes]) -> None:
        for number, use in enumerate(program.uses):
            for name, cut in use.op.cuts().items():
                for one, other in self._pairs(cut):
                    key = number, name
                    if found[key, one] != found[key, other]:
                        raise common(ValuesError(self._said(use, name, cut, one, other)))

    def _pairs(self, cut: Cut) -> Iterator[tuple[int, int]]:
        """Yield each replica with the first chip that holds the same values."""
        axes = {axis for of_dim in cut for axis in of_dim}
        first: dict[tuple[int, int], int] = {}
        for rank in range(self._mesh.n_chips):
            row, col = self._mesh.coord(rank)
            part = (row if Axis.COLUMN in axes else -1, col if Axis.ROW in axes else -1)
            if part in first:
                yield first[part], rank
            else:
                first[part] = rank

    def _said(self, use: Use, name: str, cut: Cut, one: int, other: int) -> str:
        axes = {axis for of_dim in cut for axis in of_dim}
        alike = " and ".join(
            word
            for axis, word in ((Axis.COLUMN, "rows"), (Axis.ROW, "columns"))
            if axis not in axes
        )
        chips = f"chips {self._mesh.coord(one)} and {self._mesh.coord(other)}"
        return f"{use}: its output {name} must be the same on all {alike}, but {chips} differ"
