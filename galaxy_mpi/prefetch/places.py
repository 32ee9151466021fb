"""Places of weights in the circular buffer, planned once because every step is the same.

Tensors are stored one after the other; one that does not fit before the end starts again at the
beginning::

    storage   [ w3 |      (free)       | wqkv | wo | w1 | unused ]
"""

from typing import NamedTuple

__all__ = ["Place", "Places"]


class Place(NamedTuple):
    """Place of one tensor in the storage, in values."""

    start: int
    stop: int
    after: int
    """How many tensors must have been released before this one may be written."""


class Places:
    """Plans places in the order in which tensors are read.

    Parameters
    ----------
    capacity : int
        Values that the storage holds.

    Examples
    --------
    >>> places = Places(10)
    >>> [(p.start, p.after) for p in (places.add(4), places.add(4), places.add(4))]
    [(0, 0), (4, 0), (0, 1)]
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._placed: list[Place] = []
        self._oldest = 0

    def add(self, size: int) -> Place:
        """Return the place of the next tensor of so many values.

        Raises
        ------
        ValueError
            If it can never fit.
        """
        if size > self.capacity:
            raise ValueError(f"{size} values cannot fit a buffer of {self.capacity}")
        start = self._placed[-1].stop if self._placed else 0
        if start + size > self.capacity:
            start = 0
        stop, after = start + size, self._oldest
        for number in range(len(self._placed) - 1, self._oldest - 1, -1):
            other = self._placed[number]
            if other.start < stop and start < other.stop:
                after = number + 1
                break
        # Tensors released before this one is written need not be considered again.
        self._oldest = after
        place = Place(start, stop, after)
        self._placed.append(place)
        return place
