"""Specification of what a collective sends, defined once for all uses.

The collective binds a `Wire`, the device clock prices it, the memory budget sums it, reports and
traces name it, and chips compare it whenever they exchange.
"""

import zlib
from dataclasses import dataclass, fields
from enum import Enum
from math import prod
from typing import Protocol

from galaxy_mpi.mesh import Axis

__all__ = ["BufferKey", "Format", "Index", "Kind", "Wire"]


class Kind(str, Enum):
    """The three collectives."""

    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_REDUCE = "all_reduce"


class BufferKey:
    """Names of the persistent buffers (tt-metal, llama_ccl.py, gives most of them)."""

    LAYERNORM = "LAYERNORM"
    QKV = "QKV"
    CREATE_HEADS = "CREATE_HEADS"
    CONCAT_HEADS = "CONCAT_HEADS"
    SDPA = "SDPA"
    SDPA_REVERSE = "SDPA_REVERSE"
    WO = "WO"
    FF1 = "FF1"
    FF3 = "FF3"
    GATE_UP = "GATE_UP"
    BINARY_MUL = "BINARY_MUL"
    FF2 = "FF2"
    LM_HEAD = "LM_HEAD"
    SAMPLING_VALUES = "SAMPLING_VALUES"
    SAMPLING_INDICES = "SAMPLING_INDICES"
    LOGITS = "LOGITS"
    """Logits of the whole vocabulary, for callers in Python; not an op of the device."""


class Format(Protocol):
    """What a wire needs to know of a number format."""

    @property
    def name(self) -> str:
        """Name of the format."""

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of an array of ``shape``."""


@dataclass(frozen=True)
class Index:
    """Token ids: integers of so many bytes, which no collective adds."""

    n_bytes: int

    @property
    def name(self) -> str:
        """Name of the format."""
        return f"uint{8 * self.n_bytes}"

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of an array of ``shape``."""
        return self.n_bytes * prod(shape)


@dataclass(frozen=True)
class Wire:
    """One collective's message, as each member of a group sends it.

    Examples
    --------
    >>> from galaxy_mpi.dtypes import BFP8
    >>> wire = Wire("WO", Axis.COLUMN, Kind.ALL_REDUCE, BFP8, (32, 2048))
    >>> wire.n_bytes, str(wire)
    (69632, 'all_reduce WO within a column, bfloat8_b (32, 2048)')
    """

    key: str
    """Name of the buffer, see `BufferKey`."""
    axis: Axis
    kind: Kind
    dtype: Format
    """Format of the values that are sent."""
    shape: tuple[int, ...]
    """Shape on the device, with padding, of a member's block (all-gather), of one chunk
    (reduce-scatter), or of the whole tensor (all-reduce)."""
    sent: tuple[int, ...] = ()
    """Shape on the host, without rows and columns that are only padding; default ``shape``."""
    links: int | None = None
    """Links that the op uses; None: the system's default for such a collective."""

    def __post_init__(self) -> None:
        if not self.sent:
            object.__setattr__(self, "sent", self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the block, chunk or tensor on the device."""
        return self.dtype.packed_bytes(self.shape)

    @property
    def sent_bytes(self) -> int:
        """Bytes of it on the host."""
        return self.dtype.packed_bytes(self.sent)

    def __str__(self) -> str:
        what = f"{self.kind.value} {self.key} within a {self.axis.group_name}"
        return f"{what}, {self.dtype.name} {self.sent}"

    def told_from(self, other: "Wire") -> str:
        """Return its text, and in what it differs from another that has the same text."""
        names = [f.name for f in fields(Wire) if getattr(self, f.name) != getattr(other, f.name)]
        more = [f"{name} {getattr(self, name)}" for name in names if str(self) == str(other)]
        return ", ".join([str(self), *more])

    def digest(self, number: int) -> int:
        """Return 64 bits that all members of a group must agree on: a hash of wire and number.

        Parameters
        ----------
        number : int
            Number of the collective in the program.
        """
        text = f"{number} {self} {self.shape} {self.links}".encode()
        return zlib.crc32(text) << 32 | zlib.adler32(text)
