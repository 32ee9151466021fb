"""Which format every kind of tensor has, and which fidelity every matmul, under a name.

References
----------
.. [1] tt-metal, models/demos/llama3_70b_galaxy/tt/model_config.py and lm_head.py.
"""

import zlib
from dataclasses import dataclass, fields, replace
from typing import Any

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, FLOAT32, DType
from galaxy_mpi.kernels import Fidelity

__all__ = ["KINDS", "OP_GROUPS", "PRECISIONS", "Precision"]

OP_GROUPS = (
    "li_ff1_3",
    "li_ff2",
    "li_qkv_decode",
    "li_o_decode",
    "sdpa_decode",
    "li_qkv_prefill",
    "li_o_prefill",
    "sdpa_prefill",
)
"""Ops that have a fidelity of their own (tt-metal, tt_transformers/tt/model_config.py)."""


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
    activation: DType = BF16
    """Residual of decode, norm output, q, k, v, attention output, rotary table."""
    prefill_residual: DType = BFP8
    """Residual of prefill."""
    kv_cache: DType = BFP8
    reduced: DType = BFP8
    """Products that are summed over chips, and what follows: wo, w1, w3, silu*mul, w2."""
    statistics: DType = BF16
    """Sums of squares on their way to the other columns."""
    logits: DType = BFP8
    """Partial logits and their sum."""
    candidates: DType = BF16
    """Logits of the top-k on their way to the other rows."""
    cuts_inputs: bool = True
    """Whether matmuls read only the bits of their inputs that their fidelity does."""
    fidelities: tuple[tuple[str, Fidelity], ...] = ()
    """Of op groups that do not have the usual one, see `fidelity`."""
    layers: tuple["Precision", ...] = ()
    """That of each layer, where layers differ; the head and what is not said have this one."""

    @property
    def is_bfloat16(self) -> bool:
        """Whether every value that is multiplied is one of bfloat16, as those of bfp8 are."""
        return all(
            getattr(p, kind).name != FLOAT32.name for p in (self, *self.layers) for kind in KINDS
        )

    @property
    def key(self) -> str:
        """A name that two precisions share only if they are the same."""
        parts = [[getattr(p, kind).name for kind in KINDS] for p in (self, *self.layers)]
        return f"{self.name}-{zlib.crc32(repr(parts).encode()):08x}"

    def of(self, layer: int) -> "Precision":
        """Return that of a layer; of the head if there is none of that number."""
        return self.layers[layer] if 0 <= layer < len(self.layers) else self

    def reading_all_bits(self) -> "Precision":
        """Return the same formats, with matmuls that read all bits of their inputs."""
        layers = tuple(layer.reading_all_bits() for layer in self.layers)
        return replace(self, cuts_inputs=False, layers=layers)

    def only(self, kind: str) -> "Precision":
        """Return what rounds tensors of one kind as this does, and no other."""
        formats: dict[str, Any] = dict.fromkeys(KINDS, FLOAT32) | {kind: getattr(self, kind)}
        return Precision(f"{self.name}: {kind}", **formats, cuts_inputs=False)

    def fidelity(self, name: str, mode: str = "decode") -> Fidelity:
        """Return the fidelity of a weight's matmul, or of attention (``sdpa``).

        Unless told otherwise: LoFi for bfp4, of which it reads all; HiFi4 for attention of
        prefill; else HiFi2.
        """
        group = {
            "w1": "li_ff1_3",
            "w3": "li_ff1_3",
            "w2": "li_ff2",
            "wqkv": f"li_qkv_{mode}",
            "wo": f"li_o_{mode}",
            "sdpa": f"sdpa_{mode}",
        }.get(name)
        for known, fidelity in self.fidelities:
            if known == group:
                return fidelity
        if name == "sdpa":
            return Fidelity.HIFI4 if mode == "prefill" else Fidelity.HIFI2
        reads_whole = Fidelity.LOFI.reads_whole(self.weight(name))
        return Fidelity.LOFI if reads_whole else Fidelity.HIFI2

    def weight(self, name: str) -> DType:
        """Return the format of a matmul weight by its name."""
        if name in ("w1", "w3"):
            return self.gate_up_weight
        return {
            "wqkv": self.query_key_value_weight,
            "wo": self.output_weight,
            "w2": self.down_weight,
        }.get(name, self.head_weight)


KINDS = tuple(f.name for f in fields(Precision) if f.type == "DType" or f.type is DType)
"""Kinds of tensors that have a format of their own."""

_ACCURACY = Precision("accuracy")
_NO_ROUNDING: dict[str, Any] = dict.fromkeys(KINDS, FLOAT32)
_FLOAT32 = Precision("float32", **_NO_ROUNDING, cuts_inputs=False)

PRECISIONS = {
    p.name: p
    for p in (replace(_ACCURACY, name="performance", gate_up_weight=BFP4), _ACCURACY, _FLOAT32)
}
