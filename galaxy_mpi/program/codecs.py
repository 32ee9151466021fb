"""The codecs that programs share."""

from sys import getrefcount

from galaxy_mpi.dtypes import DType
from galaxy_mpi.dtypes.codec import Codec

__all__ = ["Codecs"]


class Codecs:
    """The codecs that the programs of one thread share, by format and shape."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, tuple[int, ...]], Codec] = {}

    def get(self, dtype: DType, shape: tuple[int, ...]) -> Codec:
        """Return the codec of a shape."""
        key = dtype.name, tuple(shape)
        if key not in self._kept:
            self._kept[key] = dtype.codec(key[1])
        return self._kept[key]

    def trim(self) -> None:
        """Drop the codecs that no program refers to."""
        # The table and the call itself refer to each.
        for key in [key for key in self._kept if getrefcount(self._kept[key]) <= 2]:
            del self._kept[key]
