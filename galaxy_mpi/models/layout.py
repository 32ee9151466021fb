"""Which chip has which part of a model, on any mesh, including users' own layouts.

Padding is exact: zero heads and columns add zeros, the norm divides by the model's own dim, and
tokens beyond the vocabulary are never candidates.

A user's layout is a subclass of `Layout` with other `slots`, `dim_at` or `hidden_at` and matching
sizes; `Layout.check` verifies that every part of the model has exactly one place.
"""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.systems import class_from_file
from galaxy_mpi.systems.site import ChipShape

__all__ = ["HeadSlot", "Layout", "chosen_layout"]


def _share(size: int, parts: int) -> int:
    return -(-size // parts)


def _share_of(size: int, width: int, index: int) -> Ints:
    """Return part ``index`` of a dim split in parts of ``width``; -1 beyond its end."""
    numbers = np.arange(index * width, (index + 1) * width)
    return np.where(numbers < size, numbers, -1)


class HeadSlot(NamedTuple):
    """Room for one kv head on a row, with some of its query heads."""

    kv_head: int | None
    """None: padding."""
    heads: tuple[int, ...]
    """Its query heads on this row; the rest of the slot is zeros."""


@dataclass(frozen=True)
class Layout:
    """Which chip has which part of a model's dims.

    All rows have equally many kv slots. A kv head with several slots is replicated, and its query
    heads are distributed over them.

    Parameters
    ----------
    config : LlamaConfig
    mesh : Mesh
    is_scattered : bool
        Whether the residual stream is sharded over the rows, although weights do not shard the dim
        (`galaxy_mpi.systems.tt_transformers_1d`).

    Examples
    --------
    >>> from galaxy_mpi.models.presets import PRESETS
    >>> layout = Layout(PRESETS["llama3-70b"], Mesh(8, 4))
    >>> layout.heads_per_slot, layout.slots_per_row, layout.padding
    (8, 1, [])
    """

    config: LlamaConfig
    mesh: Mesh
    is_scattered: bool = False

    @property
    def slots_per_row(self) -> int:
        """Kv heads of a chip, including replicas and padding."""
        return _share(self.config.n_kv_heads, self.mesh.rows)

    @cached_property
    def heads_per_slot(self) -> int:
        """Query heads per kv slot, including padding: as few as possible."""
        n_slots, c = self.slots_per_row * self.mesh.rows, self.config
        group = c.n_heads // c.n_kv_heads
        return next(
            width for width in range(1, group + 1) if c.n_kv_heads * _share(group, width) <= n_slots
        )

    @cached_property
    def slots(self) -> tuple[HeadSlot, ...]:
        """All kv slots of a column, row by row."""
        c, width = self.config, self.heads_per_slot
        group = c.n_heads // c.n_kv_heads
        found = [
            HeadSlot(kv_head, tuple(range(first, min(first + width, (kv_head + 1) * group))))
            for kv_head in range(c.n_kv_heads)
            for first in range(kv_head * group, (kv_head + 1) * group, width)
        ]
        empty = HeadSlot(None, ())
        n_slots = self.slots_per_row * self.mesh.rows
        return (*found, *[empty] * (n_slots - len(found)))

    @property
    def n_heads(self) -> int:
        """Query heads of a chip, including padding."""
        return self.slots_per_row * self.heads_per_slot

    def row_slots(self, row: int) -> tuple[HeadSlot, ...]:
        """Return the kv slots of a row."""
        n = self.slots_per_row
        return self.slots[row * n : (row + 1) * n]

    def head_numbers(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the numbers of the query heads and kv heads of a row; -1: padding."""
        slots, width = self.row_slots(row), self.heads_per_slot
        heads = [(*slot.heads, *[-1] * (width - len(slot.heads))) for slot in slots]
        kv_heads = tuple(-1 if slot.kv_head is None else slot.kv_head for slot in slots)
        return tuple(number for of_slot in heads for number in of_slot), kv_heads

    @property
    def dim(self) -> int:
        """Model dim of a chip: D over the columns."""
        return _share(self.config.dim, self.mesh.cols)

    @property
    def stream(self) -> int:
        """Columns of the residual stream on a chip."""
        return _share(self.config.dim, self.mesh.rows) if self.is_scattered else self.dim

    @property
    def hidden(self) -> int:
        """Feed-forward width of a chip: F over the rows, a multiple of the columns."""
        return self.mesh.cols * _share(self.config.hidden_dim, self.mesh.n_chips)

    def dim_at(self, col: int) -> Ints:
        """Return which columns of the residual stream a mesh column has, (dim,); -1: padding."""
        return _share_of(self.config.dim, self.dim, col)

    def hidden_at(self, row: int) -> Ints:
        """Return which columns of the feed-forward a mesh row has, (hidden,); -1: padding."""
        return _share_of(self.config.hidden_dim, self.hidden, row)

    @property
    def vocab(self) -> int:
        """Vocabulary of a chip: V over the rows."""
        return _share(self.config.vocab_size, self.mesh.rows)

    def n_valid_tokens(self, row: int) -> int:
        """Return the number of tokens in a row's shard of the vocabulary, without padding."""
        return max(0, min(self.vocab, self.config.vocab_size - row * self.vocab))

    def chip_shape(self, users: int) -> ChipShape:
        """Return the sizes of the model on one chip, for a batch of ``users``."""
        c, cols = self.config, self.mesh.cols
        return ChipShape(
            users=users,
            users_each=-(-users // cols),
            dim=self.dim,
            stream=self.stream,
            model_dim=c.dim,
            norm_eps=c.norm_eps,
            heads=self.n_heads,
            kv_heads=self.slots_per_row,
            head_dim=c.head_dim,
            hidden=self.hidden,
            vocab=self.vocab,
            n_columns=cols,
            has_qk_norm=c.qk_norm,
            has_qkv_bias=c.qkv_bias,
        )

    @property
    def padding(self) -> list[str]:
        """What is padded or replicated, one phrase each; empty if the mesh divides all sizes."""
        c, rows = self.config, self.mesh.rows
        phrases = []
        n_slots, copies = len(self.slots), sum(slot.kv_head is not None for slot in self.slots)
        if n_slots > c.n_kv_heads:
            zeros = f", {n_slots - copies} of them zeros" if n_slots > copies else ""
            phrases.append(f"kv heads {c.n_kv_heads} -> {n_slots}{zeros}")
        for name, size, whole in (
            ("query heads", c.n_heads, self.n_heads * rows),
            ("dim", c.dim, self.stream * (rows if self.is_scattered else self.mesh.cols)),
            ("feed-forward", c.hidden_dim, self.hidden * rows),
            ("vocabulary", c.vocab_size, self.vocab * rows),
        ):
            if whole > size:
                phrases.append(f"{name} {size} -> {whole}")
        return phrases

    @property
    def overhead(self) -> float:
        """Matmul weights of a layer on all chips, relative to those of the model."""
        c, chips = self.config, self.mesh.n_chips
        own = c.dim * (2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 3 * c.dim * c.hidden_dim
        qkv = (2 * self.n_heads + 2 * self.slots_per_row) * c.head_dim
        return chips * self.dim * (qkv + 3 * self.hidden) / own

    @property
    def key(self) -> str:
        """Identifies this layout among those of equal sizes; empty for the default."""
        if type(self) is Layout:
            return ""
        parts = [*map(self.dim_at, range(self.mesh.cols))]
        parts += map(self.hidden_at, range(self.mesh.rows))
        told = repr(([part.tolist() for part in parts], self.slots, self.slots_per_row))
        return f"{type(self).__name__}-{zlib.crc32(told.encode()):08x}"

    def check(self) -> None:
        """Raise if a part of the model has no place, or several.

        Raises
        ------
        ConfigError
            Naming the first part that is missing or duplicated, or the size that does not fit.
        """
        c, mesh, name = self.config, self.mesh, type(self).__name__
        self._check_parts("dim", c.dim, self.dim, [self.dim_at(n) for n in range(mesh.cols)])
        hidden = [self.hidden_at(n) for n in range(mesh.rows)]
        self._check_parts("feed-forward", c.hidden_dim, self.hidden, hidden)
        if self.hidden % mesh.cols:
            raise ConfigError(
                f"{name}: hidden ({self.hidden}) must divide by the {mesh.cols} columns of chips"
            )
        n_slots = self.slots_per_row * mesh.rows
        if len(self.slots) != n_slots:
            raise ConfigError(
                f"{name}: {len(self.slots)} slots; {mesh.rows} rows of {self.slots_per_row} are "
                f"{n_slots}"
            )
        group = c.n_heads // c.n_kv_heads
        for slot in self.slots:
            of_slot = {head // group for head in slot.heads}
            if len(slot.heads) > self.heads_per_slot or not of_slot <= {slot.kv_head}:
                raise ConfigError(
                    f"{name}: a slot of kv head {slot.kv_head} takes up to {self.heads_per_slot} "
                    f"of its query heads, got {slot.heads}"
                )
        heads = np.array([head for slot in self.slots for head in slot.heads], np.int64)
        self._check_parts("query heads", c.n_heads, len(heads), [heads])

    def _check_parts(self, what: str, size: int, width: int, parts: list[Ints]) -> None:
        name = type(self).__name__
        if any(part.shape != (width,) for part in parts):
            shapes = ", ".join(str(part.shape) for part in parts)
            raise ConfigError(f"{name}: {what} has parts of shape {shapes}, wanted ({width},)")
        found = np.concatenate(parts)
        found = found[found != -1]
        if found.size and not (found.min() >= 0 and found.max() < size):
            raise ConfigError(
                f"{name}: {what} has numbers from {found.min()} to {found.max()}, wanted 0 to "
                f"{size - 1}, and -1 for zeros"
            )
        counts = np.bincount(found, minlength=size)
        if (counts != 1).any():
            first = int(np.argmax(counts != 1))
            raise ConfigError(
                f"{name}: {what} {first} has {counts[first]} places; everything needs one"
            )


def chosen_layout(text: str | None) -> type[Layout]:
    """Return the layout of ``--layout FILE.py:CLASS``, or the default one.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has no such class.
    """
    if text is None:
        return Layout
    return class_from_file("--layout", text, Layout)
