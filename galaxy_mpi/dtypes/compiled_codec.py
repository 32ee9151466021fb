"""The codecs in C (``_compiled.c``), where they were built."""

from galaxy_mpi.dtypes.codec import Codec, RowCodec

__all__ = ["CompiledCodecs", "NotBuiltError"]

INTERFACE = 2
"""What this file expects of the extension; `_compiled.c` has the same number."""


class NotBuiltError(ImportError):
    """The extension is not there, is older than this file, or not for this processor."""


class CompiledCodecs:
    """Makes codecs that are objects of the extension; they own no memory.

    Parameters
    ----------
    level : int, optional
        Which instructions to use, from 0 to ``n_levels - 1``; by default the most that this
        processor has. On x86-64: 0 is x86-64-v2, 1 is x86-64-v3.

    Raises
    ------
    NotBuiltError
        If there is no extension that can be used.
    """

    name = "compiled"

    def __init__(self, level: int | None = None) -> None:
        try:
            from galaxy_mpi.dtypes import _compiled
        except ImportError as error:
            raise NotBuiltError("not built") from error
        if _compiled.INTERFACE != INTERFACE:
            raise NotBuiltError("built from other sources")
        if _compiled.N_LEVELS == 0:
            raise NotBuiltError("the processor is older than x86-64-v2")
        self._make = _compiled.Codec
        self.n_levels = _compiled.N_LEVELS
        self.level = self.n_levels - 1 if level is None else level

    def blocks(self, magnitude_bits: int, rows: int, width: int) -> Codec:
        """Return the codec of a block float in tiles."""
        return self._make(magnitude_bits, True, rows, width, self.level)

    def block_rows(self, magnitude_bits: int, rows: int, width: int) -> RowCodec:
        """Return the codec of a block float row by row."""
        return self._make(magnitude_bits, False, rows, width, self.level)

    def bfloat16(self, rows: int, width: int) -> Codec:
        """Return the codec of bfloat16."""
        return self._make(0, True, rows, width, self.level)

    def bfloat16_rows(self, rows: int, width: int) -> RowCodec:
        """Return the codec of bfloat16 row by row."""
        return self._make(0, False, rows, width, self.level)
