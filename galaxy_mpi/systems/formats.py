"""Tables of formats: the format of every tensor of a layer, for each system.

A system's table is next to its table of ops (`galaxy_mpi.systems.galaxy_formats`,
`galaxy_mpi.systems.tt_transformers_formats`), with one row per tensor and its source. A cell is a
format, or `Act` if it follows the layer's tensor group ``activation``, or None if the mode has no
such tensor. Together with a layer's ``activation``, a table gives the `Formats` that ops read::

    table.of(model).formats("decode", activation=None).wo_product
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, FLOAT32, DType
from galaxy_mpi.errors import ConfigError, refuse_twice
from galaxy_mpi.fields import shown

__all__ = ["FORMAT_NAMES", "MODES", "TENSORS", "Act", "FormatTable", "Formats", "Row", "parse"]

MODES = ("decode", "prefill")

_WIDE = 8192

FORMAT_NAMES: dict[str, DType] = {"bfp4": BFP4, "bfp8": BFP8, "bf16": BF16}
"""Short names of the formats that the device stores."""


@dataclass(frozen=True)
class Formats:
    """Formats of the tensors of a layer in one mode. float32 means no rounding."""

    layer_input: DType = FLOAT32
    """The residual stream as a layer reads it; for the first layer, the embedding."""
    attention_sum: DType = FLOAT32
    """The residual stream after adding the attention output."""
    mlp_sum: DType = FLOAT32
    """The residual stream after adding the feed-forward output."""
    last_sum: DType = FLOAT32
    """The same after the last layer; decode only."""
    first_norm: DType = FLOAT32
    """Output of the first norm of a step, which reads the embedding; decode only."""
    attention_norm: DType = FLOAT32
    """Output of the norm before wqkv."""
    mlp_norm: DType = FLOAT32
    """Output of the norm before w1 and w3."""
    final_norm: DType = FLOAT32
    """Output of the norm before lm_head."""
    statistics: DType = FLOAT32
    """Sums of squares, as sent to the other columns."""
    qkv_product: DType = FLOAT32
    qkv_sum: DType = FLOAT32
    """Format in which the product is summed over the columns."""
    head_norm: DType = FLOAT32
    """Output of Qwen3's per-head norms."""
    rotary: DType = FLOAT32
    """q and k after rotary embedding."""
    queries: DType = FLOAT32
    """q as attention reads it, in prefill; in decode it is as ``rotary``."""
    attention: DType = FLOAT32
    """Output of attention, also as sent to other columns."""
    wo_product: DType = FLOAT32
    wo_sum: DType = FLOAT32
    gate_up_product: DType = FLOAT32
    """Products of w1 and w3."""
    gate_up_sum: DType = FLOAT32
    act: DType = FLOAT32
    """silu(gate) * up, also as sent to other columns."""
    w2_product: DType = FLOAT32
    w2_sum: DType = FLOAT32
    logits: DType = FLOAT32
    """Partial logits and their sum."""
    candidates: DType = FLOAT32
    """Logits of the top-k, as sent to the other rows."""


TENSORS = tuple(f.name for f in fields(Formats))
"""Names of the rows of a table."""


class Act(NamedTuple):
    """The format of tensor group ``activation``, or this one if that is unset."""

    otherwise: DType


Cell = DType | Act | None


class Row(NamedTuple):
    """One tensor of a table."""

    tensor: str
    decode: Cell
    prefill: Cell
    source: str


class Model(Protocol):
    """What a table needs to know about a model."""

    @property
    def qk_norm(self) -> bool:
        """Whether heads are normalised (Qwen3)."""

    @property
    def dim(self) -> int:
        """Width of the residual stream."""


@dataclass(frozen=True)
class FormatTable:
    """The formats of a system."""

    name: str
    rows: tuple[Row, ...]
    of_qwen3: tuple[Row, ...] = ()
    """Rows that differ for Qwen3."""
    of_narrow: tuple[Row, ...] = ()
    """Rows that differ for models with a dim below 8,192."""

    def __post_init__(self) -> None:
        assert tuple(row.tensor for row in self.rows) == TENSORS

    def of(self, model: Model) -> "FormatTable":
        """Return the table for a model."""
        rows = self.of_qwen3 if model.qk_norm else ()
        return self.with_rows(rows + (self.of_narrow if model.dim < _WIDE else ()))

    def with_rows(self, rows: Iterable[Row]) -> "FormatTable":
        """Return the table with some rows replaced."""
        changed = {row.tensor: row for row in rows}
        return replace(self, rows=tuple(changed.get(row.tensor, row) for row in self.rows))

    def changed(self, changes: dict[tuple[str, str], DType]) -> "FormatTable":
        """Return the table with other cells, by mode and tensor; empty cells stay empty."""
        rows = []
        for row in self.rows:
            cells = {
                mode: changes.get((mode, row.tensor), getattr(row, mode))
                for mode in MODES
                if getattr(row, mode) is not None
            }
            rows.append(row._replace(**cells))
        return replace(self, rows=tuple(rows))

    def formats(self, mode: str, activation: DType | None) -> Formats:
        """Return the formats of a layer.

        Parameters
        ----------
        mode : str
            ``decode`` or ``prefill``.
        activation : DType or None
            Format of the layer's tensor group of that name.
        """
        found: dict[str, DType] = {}
        for row in self.rows:
            cell: Cell = getattr(row, mode)
            if isinstance(cell, Act):
                cell = activation or cell.otherwise
            if cell is not None:
                found[row.tensor] = cell
        return Formats(**found)


def parse(text: str, names: Sequence[str] = ()) -> tuple[str, dict[tuple[str, str], DType]]:
    """Parse ``TABLE,TENSOR=FORMAT,MODE.TENSOR=FORMAT,...``.

    Parameters
    ----------
    text : str
        Every part is optional.
    names : sequence of str
        Of the tables that may be named first.

    Returns
    -------
    str
        Name of the table; empty for the system's own.
    dict of (str, str) to DType
        Other formats, by mode and tensor.

    Raises
    ------
    ConfigError
        If there is no such table, tensor, mode or format; the message lists the valid names.

    Examples
    --------
    >>> table, changes = parse("row,decode.wo_sum=bf16", ["row", "mesh"])
    >>> table, {key: dtype.name for key, dtype in changes.items()}
    ('row', {('decode', 'wo_sum'): 'bfloat16'})
    """
    changes: dict[tuple[str, str], DType] = {}
    first, *parts = text.split(",")
    table = "" if "=" in first else first
    if table and table not in names:
        tables = f"a table ({', '.join(names)}) or " if names else ""
        raise ConfigError(
            f"--formats: {shown(first)} is unknown; give {tables}TENSOR=FORMAT with one of "
            f"{', '.join(TENSORS)}"
        )
    given = [part.partition("=") for part in (parts if table else [first, *parts])]
    refuse_twice("--formats", [where for where, _, _ in given])
    for where, _, name in given:
        mode, dot, tensor = where.rpartition(".")
        if tensor not in TENSORS:
            raise ConfigError(f"--formats: no tensor {shown(tensor)}; choose {', '.join(TENSORS)}")
        if dot and mode not in MODES:
            raise ConfigError(f"--formats: no mode {shown(mode)}; choose {', '.join(MODES)}")
        if name not in FORMAT_NAMES:
            raise ConfigError(
                f"--formats: {tensor} is {shown(name)}; choose {', '.join(FORMAT_NAMES)}"
            )
        for each in (mode,) if dot else MODES:
            changes[each, tensor] = FORMAT_NAMES[name]
    return table, changes


def differing(
    ours: FormatTable, theirs: FormatTable, model: Model
) -> Iterator[tuple[str, str, DType, DType]]:
    """Yield (mode, tensor, format, other format) where two tables differ."""
    for mode in MODES:
        one, other = (table.of(model).formats(mode, None) for table in (ours, theirs))
        for tensor in TENSORS:
            a, b = getattr(one, tensor), getattr(other, tensor)
            if a is not b:
                yield mode, tensor, a, b
