"""Collectives that an op has asked its binder for: no others may be made while it is bound."""

from collections.abc import Iterator
from contextlib import contextmanager

from galaxy_mpi.arrays import Array
from galaxy_mpi.ccl.builder import Bound
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh import Axis

__all__ = ["Asked", "Making"]


class Making:
    """Whether a collective that an op has asked for is being made."""

    def __init__(self) -> None:
        self._depth = 0
        self._made: set[tuple[str, Axis]] = set()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Allow to make collectives in the body."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def note(self, where: str, wire: Wire) -> None:
        """Note that a collective is made.

        Raises
        ------
        ProgramError
            If it was not asked for: it would be neither charged nor reported.
        """
        if not self._depth:
            raise ProgramError(
                f"{where}: its `bind` makes the collective {wire}, but has not asked for it with "
                f"`chip.collective` or `chip.slabs`"
            )
        self._made.add((wire.key, wire.axis))

    def end(self, where: str, wires: list[Wire]) -> None:
        """End an op.

        Parameters
        ----------
        where : str
            The op and the chip.
        wires : list of Wire
            What it has asked for, in groups of several chips.

        Raises
        ------
        ProgramError
            If one of them was not made, as when `slabs` are not iterated.
        """
        for wire in wires:
            if (wire.key, wire.axis) not in self._made:
                raise ProgramError(
                    f"{where}: its `bind` asks for the collective {wire}, but does not make it; "
                    f"iterate `chip.slabs` on every chip"
                )
        self._made.clear()


class Asked:
    """A collective that was asked for, see `galaxy_mpi.ccl.builder.Bound`.

    Parameters
    ----------
    made : Bound
    making : Making
    """

    def __init__(self, made: Bound, making: Making) -> None:
        self._made, self._making = made, making
        self.term: Array = made.term

    def cross(self) -> Array:
        """Add the exchange to the program and return the array of its result."""
        with self._making.allowed():
            return self._made.cross()
