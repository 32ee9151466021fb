"""Where a collective's storage comes from: kept for the mode's life, or made anew for every call.

Kept buffers are made when a collective of a shape first runs, and are double: an index per axis
goes 0, 1, 0, 1 with every collective on that axis. So a neighbour that is already in the next
collective writes elsewhere, and no barrier is needed. Buffers per call need one: binding them is
what nobody passes before all members have left the collective before.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from galaxy_mpi.mesh import Axis, Group, Transport

__all__ = ["Bound", "Buffers", "BuffersPerCall", "PersistentBuffers"]


class Bound(Protocol):
    """A collective with its storage, bound to the transport."""

    n_bytes: int

    def free(self) -> None:
        """Release the requests."""


_B = TypeVar("_B", bound=Bound)
_What = tuple[Any, ...]
"""(op, key, axis, ...): all that two collectives may differ in."""


class Buffers(Protocol):
    """How a chip comes by a collective with its storage.

    Attributes
    ----------
    index : dict of Axis to int
        Which of two buffers is next.
    n_made, n_bytes_made : int
        How often storage was made and bound, and how many bytes of it.
    """

    index: dict[Axis, int]
    n_made: int
    n_bytes_made: int

    def __init__(self, transport: Transport) -> None: ...

    @property
    def n_bytes(self) -> int:
        """Bytes held now."""

    def get(self, what: _What, make: Callable[[Group], _B]) -> _B:
        """Return the collective for a call; ``make`` makes one over a group."""

    def free(self) -> None:
        """Release everything; the mode is over."""


class _Counted:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.index = dict.fromkeys(Axis, 0)
        self.n_made = self.n_bytes_made = 0

    def _make(self, axis: Axis, make: Callable[[Group], _B]) -> _B:
        made = make(self._transport.group(axis))
        self.n_made += 1
        self.n_bytes_made += made.n_bytes
        return made

    def _recycle(self) -> None:
        for axis in Axis:
            self._transport.group(axis).recycle()
        self.index = dict.fromkeys(Axis, 0)


class PersistentBuffers(_Counted):
    """Made once, double, kept until the mode ends."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._kept: dict[tuple[_What, int], Any] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes held now."""
        return sum(collective.n_bytes for collective in self._kept.values())

    def get(self, what: _What, make: Callable[[Group], _B]) -> _B:
        """Return the collective bound to the buffer whose turn it is; make both at first use."""
        axis = what[2]
        index = self.index[axis]
        self.index[axis] = 1 - index
        found = self._kept.get((what, index))
        if found is None:
            # Both at once: every member binds in the same order whatever its index is.
            for slot in (0, 1):
                self._kept[what, slot] = self._make(axis, make)
            found = self._kept[what, index]
        return found  # type: ignore[no-any-return]

    def free(self) -> None:
        """Release all requests and give the storage back."""
        for collective in self._kept.values():
            collective.free()
        self._kept.clear()
        self._recycle()


class BuffersPerCall(_Counted):
    """Made for every call; what the last call on the axis had is given back first."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._last: dict[Axis, Any] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes held now."""
        return sum(collective.n_bytes for collective in self._last.values())

    def get(self, what: _What, make: Callable[[Group], _B]) -> _B:
        """Return a new collective."""
        axis = what[2]
        if axis in self._last:
            self._last.pop(axis).free()
            self._transport.group(axis).recycle()
        made = self._make(axis, make)
        self._last[axis] = made
        return made

    def free(self) -> None:
        """Release the last requests and give the storage back."""
        for collective in self._last.values():
            collective.free()
        self._last.clear()
        self._recycle()
