"""Sizes of a model on a mesh that they need not divide: what is padded, what is replicated.

Padding is exact: zero heads and zero columns add zeros, the norm divides by the model's own dim,
and tokens past the vocabulary are never candidates.
"""

from dataclasses import dataclass
from functools import cached_property

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.systems.site import ChipShape

__all__ = ["HeadSlot", "Layout"]


def _share(size: int, parts: int) -> int:
    return -(-size // parts)


@dataclass(frozen=True)
class HeadSlot:
    """Place for one kv head on a row, with some of its query heads."""

    kv_head: int | None
    """None: zeros."""
    heads: tuple[int, ...]
    """Query heads of it that are computed here; the rest of the slot is zeros."""


@dataclass(frozen=True)
class Layout:
    """Who has which part of a model's dims.

    A row has as many kv slots as any other. A kv head that has more than one slot is replicated,
    and its query heads are spread over them.

    Parameters
    ----------
    config : LlamaConfig
    mesh : Mesh
    is_scattered : bool
        Whether the stream is cut over the rows, though weights do not cut the dim
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
        """Kv heads that a chip has, copies and zeros included."""
        return _share(self.config.n_kv_heads, self.mesh.rows)

    @cached_property
    def heads_per_slot(self) -> int:
        """Query heads of a kv slot, zeros included: as few as the slots allow."""
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
        """Query heads of a chip, zeros included."""
        return self.slots_per_row * self.heads_per_slot

    def row_slots(self, row: int) -> tuple[HeadSlot, ...]:
        """Return the kv slots of a row."""
        n = self.slots_per_row
        return self.slots[row * n : (row + 1) * n]

    def head_numbers(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the numbers of the query heads and of the kv heads of a row; -1: zeros."""
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

    @property
    def vocab(self) -> int:
        """Vocabulary of a chip: V over the rows."""
        return _share(self.config.vocab_size, self.mesh.rows)

    def n_valid_tokens(self, row: int) -> int:
        """Return how many tokens of a row's slice of the vocabulary exist."""
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
        )

    @property
    def padding(self) -> list[str]:
        """What is padded or replicated, one phrase each; empty if everything divides."""
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
        """Values of the matmul weights of a layer on all chips, over the model's own."""
        c, chips = self.config, self.mesh.n_chips
        own = c.dim * (2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 3 * c.dim * c.hidden_dim
        qkv = (2 * self.n_heads + 2 * self.slots_per_row) * c.head_dim
        return chips * self.dim * (qkv + 3 * self.hidden) / own
