"""Which codec a run uses: the compiled one if it was built, numpy's otherwise.

``GALAXY_MPI_CODEC=numpy`` or ``compiled`` decides. Both give the same bits.
"""

import os
from functools import cache
from typing import Protocol

from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.errors import ConfigError

__all__ = ["Codecs", "chosen_codecs", "codec_name", "codecs_named"]

VARIABLE = "GALAXY_MPI_CODEC"


class Codecs(Protocol):
    """Makes codecs of all formats but float32, which rounds nothing."""

    @property
    def name(self) -> str:
        """What the environment variable calls it."""

    def blocks(self, magnitude_bits: int, rows: int, width: int) -> Codec:
        """Return the codec of a block float in tiles."""

    def block_rows(self, magnitude_bits: int, rows: int, width: int) -> RowCodec:
        """Return the codec of a block float row by row."""

    def bfloat16(self, rows: int, width: int) -> Codec:
        """Return the codec of bfloat16."""

    def bfloat16_rows(self, rows: int, width: int) -> RowCodec:
        """Return the codec of bfloat16 row by row."""


def codecs_named(asked: str) -> Codecs:
    """Return the codecs of that name; of the empty name the faster that there is.

    Raises
    ------
    ConfigError
        If there is none of that name, or it was not built.
    """
    if asked not in ("", "compiled", "numpy"):
        raise ConfigError(f"{VARIABLE} is numpy or compiled, got {asked!r}")
    if asked != "numpy":
        from galaxy_mpi.dtypes.compiled_codec import CompiledCodecs, NotBuiltError

        try:
            return CompiledCodecs()
        except NotBuiltError as error:
            if asked:
                raise ConfigError(
                    f"{VARIABLE}=compiled, but the compiled codec cannot be used ({error}); "
                    "install a C compiler and run `sh launch/setup.sh` again, or unset the variable"
                ) from error
    from galaxy_mpi.dtypes.numpy_codec import NumpyCodecs  # what is not chosen is not loaded

    return NumpyCodecs()


@cache
def chosen_codecs() -> Codecs:
    """Return the codecs that the environment asked for when they were first needed."""
    return codecs_named(os.environ.get(VARIABLE, ""))


def codec_name() -> str:
    """Return ``compiled`` or ``numpy``, for reports."""
    return chosen_codecs().name
