"""Formats of the generic system, tensor by tensor, with their sources.

Sources are files of tt-metal, models/tt_transformers/tt/, of 2025 and 2026. An op without a dtype
stores its result in the format of its first input. ``ccl_dtype`` is bfp8 and used if a mesh has
several rows and columns.

Machine classes: one chip and one row of chips have `ROW_FORMATS`, 32 chips `MESH_FORMATS`. Other
meshes of several rows and columns do not exist in the original. Here they have `MESH_FORMATS`,
because ``tt_all_reduce`` takes its two-dimensional branch if no side is 1; ``--formats row``
selects the other.
"""

from galaxy_mpi.dtypes import BF16, BFP8
from galaxy_mpi.systems.formats import Act, FormatTable, Row

__all__ = ["MESH_FORMATS", "ROW_FORMATS"]

_BF16, _BFP8 = Act(BF16), Act(BFP8)

_INPUT = "model.py, forward: typecast of x to the layer's activation dtype where there is one"
_SECOND = "decoder.py, forward, end: activation_dtype or ttnn.bfloat16"
_NORM = "rmsnorm.py: no dtype, so the stream's"
_HEAD = "lm_head.py, forward: lm_head_dtype or ttnn.bfloat8_b"
_CANDIDATES = "models/common/sampling: values are gathered in bf16"

ROW_FORMATS = FormatTable(
    "row",
    (
        Row("layer_input", _BF16, _BF16, _INPUT),
        Row("attention_sum", _BF16, _BF16, "decoder.py, forward: dtype None, so the residual's"),
        Row("mlp_sum", _BF16, _BF16, _SECOND),
        Row("last_sum", _BF16, None, _SECOND),
        Row("first_norm", _BF16, None, _NORM),
        Row("attention_norm", _BF16, _BF16, _NORM),
        Row("mlp_norm", _BF16, _BF16, _NORM),
        Row("final_norm", _BF16, _BF16, _NORM),
        Row("statistics", None, None, "distributed_norm.py: the stream is gathered, not these"),
        Row("qkv_product", _BF16, _BF16, "attention.py: activation_dtype or ttnn.bfloat16"),
        Row("qkv_sum", _BF16, _BF16, "ccl.py, tt_all_reduce returns its input: the product's"),
        Row("head_norm", BF16, _BF16, "attention.py: decode casts to bf16 for the heads"),
        Row("rotary", BF16, BF16, "attention.py: typecast of q and k to bf16"),
        Row("queries", None, _BFP8, "attention.py, forward_prefill: activation or bfloat8_b"),
        Row("attention", BF16, _BFP8, "sdpa stores as q"),
        Row("wo_product", BF16, _BFP8, "attention.py: decode has no dtype: the heads' bf16"),
        Row("wo_sum", BF16, _BFP8, "ccl.py, tt_all_reduce: a reduce-scatter without cast"),
        Row("gate_up_product", _BF16, _BF16, "mlp.py, w1 and w3: activation or bfloat16"),
        Row("gate_up_sum", _BF16, _BF16, "mlp.py: reduced only on 32 chips: the product's"),
        Row("act", _BFP8, _BFP8, "mlp.py, ttnn.mul: activation_dtype or ttnn.bfloat8_b"),
        Row(
            "w2_product",
            _BF16,
            _BF16,
            "mlp.py, w2: activation or bfloat16 (with minimal_matmul, "
            "a newer choice for more than 128 rows: as act)",
        ),
        Row("w2_sum", _BF16, _BF16, "ccl.py, tt_all_reduce: a reduce-scatter without cast"),
        Row("logits", BFP8, BFP8, _HEAD),
        Row("candidates", BF16, BF16, _CANDIDATES),
    ),
)

MESH_FORMATS = FormatTable(
    "mesh",
    (
        Row("layer_input", _BF16, _BF16, _INPUT),
        Row("attention_sum", BF16, BF16, "decoder.py, forward: dtype=ttnn.bfloat16 if TG"),
        Row("mlp_sum", _BF16, _BF16, f"{_SECOND}; norms of a mesh are distributed"),
        Row("last_sum", _BF16, None, _SECOND),
        Row("first_norm", _BF16, None, _NORM),
        Row("attention_norm", _BF16, _BF16, _NORM),
        Row("mlp_norm", BF16, BF16, _NORM),
        Row("final_norm", _BF16, _BF16, _NORM),
        Row("statistics", BF16, BF16, "ccl.py, tt_distributed_rmsnorm: dtype=ttnn.bfloat16"),
        Row("qkv_product", BFP8, BFP8, "attention.py: ccl_dtype if TG"),
        Row("qkv_sum", BFP8, BFP8, "ccl.py, tt_all_reduce: dtype=ccl_dtype"),
        Row("head_norm", BF16, BFP8, "attention.py: prefill norms heads before it casts to bf16"),
        Row("rotary", BF16, BF16, "attention.py: typecast of q and k to bf16"),
        Row("queries", None, _BFP8, "attention.py, forward_prefill: activation or bfloat8_b"),
        Row("attention", BF16, _BFP8, "sdpa stores as q"),
        Row("wo_product", BFP8, _BFP8, "attention.py: bfloat8_b if TG; prefill: activation or"),
        Row("wo_sum", BFP8, BFP8, "ccl.py, tt_all_reduce: dtype=ccl_dtype"),
        Row("gate_up_product", BFP8, BFP8, "mlp.py: ttnn.bfloat8_b if TG"),
        Row("gate_up_sum", BFP8, BFP8, "mlp.py: dim 8192 in bfp8; see of_narrow for less"),
        Row("act", _BFP8, _BFP8, "mlp.py, ttnn.mul: activation_dtype or ttnn.bfloat8_b"),
        Row("w2_product", BFP8, BFP8, "mlp.py: ccl_dtype if TG"),
        Row("w2_sum", BFP8, BFP8, "ccl.py, tt_all_reduce: dtype=ccl_dtype"),
        Row("logits", BFP8, BFP8, _HEAD),
        Row("candidates", BF16, BF16, _CANDIDATES),
    ),
    of_narrow=(
        Row("gate_up_sum", BF16, BFP8, "mlp.py: tt_all_reduce without dtype: cast to bfloat16"),
    ),
)
