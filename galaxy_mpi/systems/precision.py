"""Which format every kind of tensor has, under a name.

References
----------
.. [1] tt-metal, models/demos/llama3_70b_galaxy/tt/model_config.py and lm_head.py.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, FLOAT32, DType
from galaxy_mpi.kernels import Fidelity

__all__ = ["KINDS", "PRECISIONS", "Precision"]


@dataclass(frozen=True)
class Precision:
    """A format for each kind of tensor."""

    name: str
    attention_weight: DType = BFP8
    """wqkv and wo."""
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

    @property
    def is_bfloat16(self) -> bool:
        """Whether every value that is multiplied is one of bfloat16, as those of bfp8 are."""
        return all(getattr(self, kind) is not FLOAT32 for kind in KINDS)

    def only(self, kind: str) -> "Precision":
        """Return what rounds tensors of one kind as this does, and no other."""
        formats: dict[str, Any] = dict.fromkeys(KINDS, FLOAT32) | {kind: getattr(self, kind)}
        return Precision(f"{self.name}: {kind}", **formats, cuts_inputs=False)

    def fidelity(self, name: str) -> Fidelity:
        """Return the fidelity of a weight's matmul: LoFi reads all of bfp4, HiFi2 all of bfp8."""
        weight = self.weight(name)
        return Fidelity.LOFI if Fidelity.LOFI.reads_whole(weight) else Fidelity.HIFI2

    def weight(self, name: str) -> DType:
        """Return the format of a matmul weight by its name."""
        if name in ("w1", "w3"):
            return self.gate_up_weight
        return {
            "wqkv": self.attention_weight,
            "wo": self.attention_weight,
            "w2": self.down_weight,
        }.get(name, self.head_weight)


KINDS = tuple(f.name for f in fields(Precision) if f.name not in ("name", "cuts_inputs"))
"""Kinds of tensors that have a format of their own."""

_ACCURACY = Precision("accuracy")
_NO_ROUNDING: dict[str, Any] = dict.fromkeys(KINDS, FLOAT32)
_FLOAT32 = Precision("float32", **_NO_ROUNDING, cuts_inputs=False)

PRECISIONS = {
    p.name: p
    for p in (replace(_ACCURACY, name="performance", gate_up_weight=BFP4), _ACCURACY, _FLOAT32)
}
