"""Formats of every kind of tensor and fidelities of every matmul, as ops read them.

A precision is made for a system, a mesh and a model::

    precision = Wanted("accuracy").on(system_of("tt_transformers", mesh), model)
    precision.of(layer).prefill.wo_product

``float32`` rounds nothing, on every system.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from galaxy_mpi.dtypes import BF16, BFP8, FLOAT32, DType
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.systems.formats import MODES, TENSORS, Formats, FormatTable
from galaxy_mpi.systems.settings import DEFAULT, Setting
from galaxy_mpi.weights import Weight

__all__ = [
    "FLOAT32_PRECISION",
    "KINDS",
    "OP_GROUPS",
    "Precision",
    "made_of",
]

OP_GROUPS = tuple(DEFAULT.fidelities)
"""Ops with a fidelity setting (tt-metal, tt_transformers/tt/model_config.py)."""


@dataclass(frozen=True)
class Precision:
    """A format for each kind of tensor."""

    name: str
    query_key_value_weight: DType = BFP8
    """wqkv."""
    output_weight: DType = BFP8
    """wo."""
    gate_up_weight: DType = BFP8
    """w1 and w3."""
    down_weight: DType = BFP8
    """w2."""
    head_weight: DType = BFP8
    """lm_head."""
    embedding: DType = BF16
    """Embedding and norm gains."""
    rotary_table: DType = BF16
    """Cosines and sines."""
    kv_cache: DType = BFP8
    decode: Formats = field(default_factory=Formats)
    """Formats in decode."""
    prefill: Formats = field(default_factory=Formats)
    """Formats in prefill."""
    before: Formats = field(default_factory=Formats)
    """Decode formats of the previous layer, whose last addition this layer computes."""
    next_input: DType = FLOAT32
    """Format in which the next layer reads the residual stream, if it casts."""
    cuts_inputs: bool = True
    """Whether matmuls use only those bits of their inputs that their fidelity does."""
    fidelities: tuple[tuple[str, Fidelity], ...] = ()
    """Of each op group."""
    layers: tuple["Precision", ...] = ()
    """Per-layer overrides; everything else uses this object's formats."""

    def formats(self, mode: str) -> Formats:
        """Return the formats of a mode."""
        return self.decode if mode == "decode" else self.prefill

    @property
    def is_bfloat16(self) -> bool:
        """Whether every matmul input is representable in bfloat16, as bfp8 is."""
        return all(dtype is not FLOAT32 for p in (self, *self.layers) for dtype in p.multiplied)

    @property
    def multiplied(self) -> tuple[DType, ...]:
        """Formats of weights and of the activations they are multiplied by."""
        of_modes = (
            (f.attention_norm, f.mlp_norm, f.final_norm, f.attention, f.act)
            for f in (self.decode, self.prefill)
        )
        stored = tuple(getattr(self, kind) for kind in _STORED)
        return tuple(dtype for formats in of_modes for dtype in formats) + stored

    @property
    def key(self) -> str:
        """A name that is unique to equal precisions."""
        parts = [[_format(p, kind) for kind in KINDS] for p in (self, *self.layers)]
        return f"{self.name}-{zlib.crc32(repr(parts).encode()):08x}"

    def of(self, layer: int) -> "Precision":
        """Return the precision of a layer, or of the head if there is no such layer."""
        return self.layers[layer] if 0 <= layer < len(self.layers) else self

    def reading_all_bits(self) -> "Precision":
        """Return a copy whose matmuls use all bits of their inputs."""
        layers = tuple(layer.reading_all_bits() for layer in self.layers)
        return replace(self, cuts_inputs=False, layers=layers)

    def only(self, kind: str) -> "Precision":
        """Return a precision that rounds only one kind of tensor, as this one does."""

        def stored(name: str) -> DType:
            dtype: DType = getattr(self, name)
            return dtype if name == kind else FLOAT32

        def of_mode(formats: Formats) -> Formats:
            return Formats(**{kind: getattr(formats, kind)} if kind in TENSORS else {})

        return replace(
            self,
            name=f"{self.name}: {kind}",
            query_key_value_weight=stored("query_key_value_weight"),
            output_weight=stored("output_weight"),
            gate_up_weight=stored("gate_up_weight"),
            down_weight=stored("down_weight"),
            head_weight=stored("head_weight"),
            embedding=stored("embedding"),
            rotary_table=stored("rotary_table"),
            kv_cache=stored("kv_cache"),
            decode=of_mode(self.decode),
            prefill=of_mode(self.prefill),
            before=of_mode(self.before),
            next_input=self.next_input if kind == "layer_input" else FLOAT32,
            cuts_inputs=False,
            layers=tuple(layer.only(kind) for layer in self.layers),
        )

    def fidelity(self, weight: Weight, mode: str = "decode") -> Fidelity:
        """Return the fidelity of a weight's matmul.

        By default LoFi for bfp4, which it reads completely, and HiFi2 otherwise.
        """
        reads_whole = Fidelity.LOFI.reads_whole(self.weight(weight))
        default = Fidelity.LOFI if reads_whole else Fidelity.HIFI2
        return self._chosen(weight.op_group.format(mode=mode), default)

    def attention_fidelity(self, mode: str) -> Fidelity:
        """Return the fidelity of attention; by default HiFi4 in prefill, HiFi2 in decode."""
        default = Fidelity.HIFI4 if mode == "prefill" else Fidelity.HIFI2
        return self._chosen(f"sdpa_{mode}", default)

    def _chosen(self, group: str, default: Fidelity) -> Fidelity:
        return dict(self.fidelities).get(group, default)

    def activation_mask(self, weight: Weight, mode: str) -> np.uint32 | None:
        """Return which bits of its activation the matmul of a weight uses; None: all it has."""
        fidelity, formats = self.fidelity(weight, mode), self.formats(mode)
        given = [getattr(formats, weight.multiplies)]
        if weight is Weight.WQKV and mode == "decode":
            given.append(formats.first_norm)  # of the first layer
        if not self.cuts_inputs or all(map(fidelity.reads_activation, given)):
            return None
        return fidelity.activation_mask

    def reads_whole(self, weight: Weight) -> bool:
        """Return whether the matmuls of a weight use all of its bits, in both modes."""
        fidelities = [self.fidelity(weight, mode) for mode in MODES]
        dtype = self.weight(weight)
        return not self.cuts_inputs or all(each.reads_whole(dtype) for each in fidelities)

    def weight(self, weight: Weight) -> DType:
        """Return the format of a matmul weight."""
        dtype: DType = getattr(self, weight.stored_as)
        return dtype


_STORED = tuple(f.name for f in fields(Precision) if f.type is DType and f.name != "next_input")
"""Kinds that are stored: weights, cache, tables."""

KINDS = (*_STORED, *TENSORS)
"""Kinds of tensors with a format of their own."""


def _format(precision: Precision, kind: str) -> str:
    if kind in _STORED:
        dtype: DType = getattr(precision, kind)
        return dtype.name
    return "/".join(getattr(precision.formats(mode), kind).name for mode in MODES)


FLOAT32_PRECISION = replace(Precision("float32").only("none"), name="float32")


def made_of(name: str, table: FormatTable, settings: Sequence[Setting]) -> Precision:
    """Return the precision of a table and a setting for each layer.

    Parameters
    ----------
    name : str
    table : FormatTable
        For the model, see `FormatTable.of`.
    settings : sequence of Setting
        One per layer, or a single one for all.
    """
    made: dict[str, Precision] = {}
    inputs = [table.formats("prefill", s.formats["activation"]).layer_input for s in settings]
    layers = []
    for number, setting in enumerate(settings):
        before = settings[max(number - 1, 0)]
        one = replace(
            _of_layer(name, table, setting),
            before=table.formats("decode", before.formats["activation"]),
            next_input=inputs[min(number + 1, len(inputs) - 1)],
        )
        # Equal layers share one object, and therefore their ops.
        layers.append(made.setdefault(repr(one), one))
    # The head has the formats of the last layer, whose stream it reads.
    return replace(layers[-1], layers=tuple(layers) if len(settings) > 1 else ())


def _of_layer(name: str, table: FormatTable, setting: Setting) -> Precision:
    activation = setting.formats["activation"]

    def stored(group: str) -> DType:
        dtype = setting.formats[group]
        assert dtype is not None, "only activations can be as in the table"
        return dtype

    return Precision(
        name,
        query_key_value_weight=stored("wqkv"),
        output_weight=stored("wo"),
        gate_up_weight=stored("ff1_3"),
        down_weight=stored("ff2"),
        kv_cache=stored("kv_cache"),
        decode=table.formats("decode", activation),
        prefill=table.formats("prefill", activation),
        fidelities=tuple(sorted(setting.fidelities.items())),
    )
