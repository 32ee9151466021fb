"""Formats of the Galaxy system, tensor by tensor, with their sources.

Sources are files of tt-metal, models/demos/llama3_70b_galaxy/tt/. An op without a dtype
stores its result in the format of its first input.

Versions of the source disagree in two places. *Norms of decode*: the op's rule gives bfp8, and its
unit test requires that, but the benchmark of the following matmuls feeds them bf16. *Residual of
Qwen3-32B in decode*: an add separate from the norm, without a dtype (bfp8), or with bf16, for which
accuracy was published. The table has bfp8 for the former and bf16 for the latter; ``--formats``
selects the others: ``decode.attention_norm=bf16,decode.mlp_norm=bf16``, or
``decode.attention_sum=bfp8,decode.mlp_sum=bfp8``.

The original has no tensor group ``activation``. Here, a file that names it sets two rows, which the
group also sets in the generic system: the sum of q, k and v in decode, and ``act``. Both are sent
between chips. If the group is unset, they are as in the original.
"""

from galaxy_mpi.dtypes import BF16, BFP8
from galaxy_mpi.systems.formats import Act, FormatTable, Row

__all__ = ["GALAXY_FORMATS"]

_NORM = "llama_ccl.py, tt_sharded_distributed_rmsnorm: no dtype, so the block's output's"
_PREFILL_NORM = "prefill: llama_ccl.py, tt_distributed_rmsnorm: no dtype, so the stream's"

GALAXY_FORMATS = FormatTable(
    "galaxy",
    (
        Row(
            "layer_input",
            BF16,
            BFP8,
            "llama_embedding.py, forward: bfloat8_b for more than 32 rows, else bfloat16",
        ),
        Row(
            "attention_sum",
            BF16,
            BFP8,
            "decode: rms_allgather writes h in place, bf16; prefill: llama_decoder.py, ttnn.add",
        ),
        Row("mlp_sum", BF16, BFP8, "as attention_sum"),
        Row("last_sum", BFP8, None, "llama_decoder.py, forward: ttnn.add(ff_out, h) has no dtype"),
        Row("first_norm", BF16, None, f"{_NORM}: here the embedding"),
        Row("attention_norm", BFP8, BFP8, f"{_NORM}; {_PREFILL_NORM}"),
        Row("mlp_norm", BFP8, BFP8, f"{_NORM}; {_PREFILL_NORM}"),
        Row("final_norm", BFP8, BFP8, "no residual: as last_sum; lm_head is fed bfloat8_b"),
        Row("statistics", BF16, BF16, "llama_ccl.py, get_all_gather_buffers, LAYERNORM"),
        Row("qkv_product", BF16, BFP8, "llama_attention.py: bf16 row major; prefill: ccl_dtype"),
        Row(
            "qkv_sum",
            Act(BF16),
            BFP8,
            "llama_ccl.py, get_decode_rs_create_heads_buffers; line_all_reduce keeps the product's",
        ),
        Row("head_norm", BF16, BF16, "llama_attention.py: prefill casts q and k to bf16 first"),
        Row("rotary", BF16, BF16, "llama_attention.py, rotary_embedding_llama"),
        Row("queries", None, BFP8, "llama_attention.py, forward_prefill: typecast of q"),
        Row("attention", BF16, BFP8, "sdpa stores as q; get_all_gather_concat_inter_buffer: bf16"),
        Row("wo_product", BFP8, BFP8, "llama_attention.py: dtype=ttnn.bfloat8_b"),
        Row("wo_sum", BFP8, BFP8, "llama_ccl.py, line_all_reduce: dtype None"),
        Row("gate_up_product", BFP8, BFP8, "llama_mlp.py, forward and forward_prefill"),
        Row("gate_up_sum", BFP8, BFP8, "llama_ccl.py, double_matmul_line_reduce_scatter"),
        Row("act", Act(BFP8), Act(BFP8), "llama_mlp.py, ttnn.mul: dtype=ttnn.bfloat8_b"),
        Row("w2_product", BFP8, BFP8, "llama_mlp.py, w2"),
        Row("w2_sum", BFP8, BFP8, "llama_ccl.py, line_all_reduce: dtype None"),
        Row("logits", BFP8, BFP8, "lm_head.py, forward"),
        Row("candidates", BF16, BF16, "llama_ccl.py, get_all_gather_buffers, SAMPLING_VALUES"),
    ),
    of_qwen3=(
        Row(
            "w2_product",
            BFP8,
            BF16,
            "qwen_model_config.py, prefill_mlp_output_dtype = bfloat16",
        ),
        Row("w2_sum", BFP8, BF16, "the same: it preserves partial sums through the reduction"),
    ),
)
