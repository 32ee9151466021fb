"""The parameters of a model as a chip holds them: one enum of the weights, one of the vectors."""

from enum import Enum
from typing import NamedTuple

__all__ = ["Vector", "VectorId", "Weight", "WeightId"]


class Weight(Enum):
    """A matmul weight; its value is Meta's name, or ``wqkv`` for wq, wk and wv side by side.

    Attributes
    ----------
    stored_as : str
        The field of `galaxy_mpi.systems.Precision` with its format.
    multiplies : str
        The activation it is multiplied by: the field of `galaxy_mpi.systems.formats.Formats` with
        the activation's format.
    op_group : str
        The group of ops that its matmul belongs to, as tt-metal names it
        (tt_transformers/tt/model_config.py), with ``{mode}`` for ``decode`` or ``prefill``; empty
        if it belongs to none.
    """

    stored_as: str
    multiplies: str
    op_group: str

    WQKV = "wqkv", "query_key_value_weight", "attention_norm", "li_qkv_{mode}"
    WO = "wo", "output_weight", "attention", "li_o_{mode}"
    W1 = "w1", "gate_up_weight", "mlp_norm", "li_ff1_3"
    W3 = "w3", "gate_up_weight", "mlp_norm", "li_ff1_3"
    W2 = "w2", "down_weight", "act", "li_ff2"
    LM_HEAD = "lm_head", "head_weight", "final_norm", ""

    def __new__(cls, value: str, stored_as: str, multiplies: str, op_group: str) -> "Weight":
        """Return a member whose value is only its name."""
        member = object.__new__(cls)
        member._value_ = value
        member.stored_as, member.multiplies, member.op_group = stored_as, multiplies, op_group
        return member

    def __str__(self) -> str:
        return str(self.value)


class Vector(Enum):
    """A parameter that no matmul multiplies by: the gain of a norm, or a bias."""

    ATTENTION_NORM = "attention_norm"
    FFN_NORM = "ffn_norm"
    FINAL_NORM = "norm"
    QKV_BIAS = "qkv_bias"
    Q_NORM = "q_norm"
    K_NORM = "k_norm"

    def __str__(self) -> str:
        return str(self.value)


class WeightId(NamedTuple):
    """A matmul weight of this chip."""

    layer: int
    """Layer number, or -1 for the language-model head."""
    weight: Weight
    piece: int | None = None
    """Number of a piece of the language-model head, which is stored in pieces."""

    @property
    def name(self) -> str:
        """Name within the layer, for example ``wo`` or ``lm_head.3``."""
        return str(self.weight) if self.piece is None else f"{self.weight}.{self.piece}"

    def __str__(self) -> str:
        return f"layer {self.layer} {self.name}" if self.layer >= 0 else self.name


class VectorId(NamedTuple):
    """A vector of this chip."""

    layer: int
    """Layer number, or -1 for the gain of the final norm."""
    vector: Vector

    @property
    def name(self) -> str:
        """Name within the layer."""
        return str(self.vector)
