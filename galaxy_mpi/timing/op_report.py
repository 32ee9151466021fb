"""A device trace in the form of tt-metal's op report, which the tool ``tt-perf-report`` reads.

One row for each op of each chip, and a signpost in front of each pass and step (``prefill 1``,
``decode 1``). Figures that the model does not have are left empty.

References
----------
.. [1] tt-perf-report 1.4, CSV format v2.1.
"""

import csv
import io
import math
from collections.abc import Iterator

from galaxy_mpi.dtypes import BFP4, BFP8, DType
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.program.memory import Matrix
from galaxy_mpi.program.op import Program
from galaxy_mpi.timing.machine import Machine
from galaxy_mpi.timing.trace import COMPUTE, PROGRAM, Trace
from galaxy_mpi.weights import Weight

__all__ = ["op_report_csv"]

OP_CODES = {
    "rms_norm_attention": "RMSAllGather",
    "rms_norm_mlp": "RMSAllGather",
    "final_norm": "RMSAllGather",
    "norm": "LayerNorm",
    "reduce_scatter_create_heads": "LlamaReduceScatter",
    "create_heads": "NlpCreateHeads",
    "concat_heads": "NLPConcatHeads",
    "rotary": "RotaryEmbeddingLlama",
    "update_cache": "PagedUpdateCacheDeviceOperation",
    "fill_cache": "PagedUpdateCacheDeviceOperation",
    "attention": "ScaledDotProductAttentionDecode",
    "all_gather_concat": "AllGatherConcat",
    "w1_w3_matmul_reduce_scatter_w1": "Matmul",
    "all_gather_w2_matmul": "AllGatherMatmul",
    "silu_mul": "BinaryNg",
    "add": "BinaryNg",
    "reshards": "Reshard",
    "typecasts": "Typecast",
    "top_k": "Reduce",
    "sampling": "ArgMax",
}
"""Names of the device's ops; others are recognised by prefix (`_op_code`)."""

MATRICES = {
    "qkv_matmul": Weight.WQKV,
    "wo_matmul": Weight.WO,
    "w1_matmul": Weight.W1,
    "w3_matmul": Weight.W3,
    "w1_w3_matmul_reduce_scatter_w1": Weight.W1,
    "w2_matmul": Weight.W2,
    "all_gather_w2_matmul": Weight.W2,
    "lm_head_matmul": Weight.LM_HEAD,
}

SIGNPOST = "signpost"

_FIDELITIES = {Fidelity.LOFI: "LoFi", Fidelity.HIFI2: "HiFi2", Fidelity.HIFI4: "HiFi4"}

_TENSORS = ("INPUT_0", "INPUT_1", "OUTPUT_0")
_DIMS = ("W", "Z", "Y", "X")

COLUMNS = (
    "OP CODE",
    "OP TYPE",
    "GLOBAL CALL COUNT",
    "DEVICE ID",
    "DEVICE ARCH",
    "ATTRIBUTES",
    "MATH FIDELITY",
    "CORE COUNT",
    "AVAILABLE WORKER CORE COUNT",
    "HOST START TS",
    "DEVICE KERNEL DURATION [ns]",
    "OP TO OP LATENCY [ns]",
    *(f"{tensor}_{dim}_PAD[LOGICAL]" for tensor in _TENSORS for dim in _DIMS),
    *(f"{tensor}_{what}" for tensor in _TENSORS for what in ("DATATYPE", "MEMORY")),
)


def op_report_csv(trace: Trace, machine: Machine, step: Program) -> str:
    """Return the text of the report.

    Parameters
    ----------
    trace : Trace
        Of device time.
    machine : Machine
    step : Program
        A decode step, for the details of its matmuls.
    """
    users, matrices = step.inputs["x"].shape[0], dict[Weight, Matrix]()
    for use in step.uses:
        for matrix in use.op.matrices():
            matrices.setdefault(matrix.weight, matrix)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    chips = {
        rank: [event for event in spans if not event["name"].endswith("_gap")]
        for rank, spans in trace.spans(COMPUTE).items()
    }
    numbers, ends_us = dict.fromkeys(chips, 0), dict.fromkeys(chips, 0.0)
    for title, begin_us, end_us in _steps(trace):
        start = {"OP CODE": title, "OP TYPE": SIGNPOST, "HOST START TS": round(begin_us * 1e3)}
        writer.writerow(start)
        for rank, events in chips.items():
            for event in events[numbers[rank] :]:
                if event["ts"] >= end_us:
                    break
                row = {
                    "OP CODE": _op_code(event["name"]),
                    "OP TYPE": "tt_dnn_device",
                    "GLOBAL CALL COUNT": numbers[rank] * 1024 + rank,
                    "DEVICE ID": rank,
                    "DEVICE ARCH": "wormhole",
                    "ATTRIBUTES": event["name"],
                    "CORE COUNT": round(event["args"]["cores"]) or "",
                    "AVAILABLE WORKER CORE COUNT": round(machine.prefill_cores),
                    # A nanosecond late: the tool sorts by it, and ops come behind their signpost.
                    "HOST START TS": round(event["ts"] * 1e3) + 1,
                    "DEVICE KERNEL DURATION [ns]": round(event["dur"] * 1e3),
                    "OP TO OP LATENCY [ns]": round((event["ts"] - ends_us[rank]) * 1e3),
                }
                if event["name"] in MATRICES:
                    row |= _matmul(matrices[MATRICES[event["name"]]], users)
                writer.writerow(row)
                numbers[rank] += 1
                ends_us[rank] = event["ts"] + event["dur"]
    return text.getvalue()


def _steps(trace: Trace) -> Iterator[tuple[str, float, float]]:
    """Yield the passes and steps with their begin and the next one's, in microseconds."""
    program = trace.spans(PROGRAM)[0]
    steps = [e for e in program if e["name"].startswith(("prefill ", "decode "))]
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        yield step["name"], step["ts"], math.inf if following is None else following["ts"]


def _op_code(name: str) -> str:
    if name in OP_CODES:
        return OP_CODES[name]
    for beginning, code in (
        ("all_reduce", "AllReduceAsync"),
        ("all_gather", "AllGatherAsync"),
        ("reduce_scatter", "ReduceScatterMinimalAsync"),
        ("sum_", "FastReduceNC"),
        ("select_users", "Matmul"),
        ("rotary_", "RotaryEmbeddingLlama"),
        ("update_cache_", "PagedUpdateCacheDeviceOperation"),
        ("rms_norm_", "LayerNorm"),
    ):
        if name.startswith(beginning):
            return code
    return "Matmul" if name.endswith("_matmul") else name


def _matmul(weight: Matrix, users: int) -> JsonObject:
    k, n = weight.rows, weight.columns
    shapes = {"INPUT_0": (users, k), "INPUT_1": (k, n), "OUTPUT_0": (users, n)}
    row: JsonObject = {"MATH FIDELITY": _FIDELITIES[weight.fidelity]}
    for tensor, (height, width) in shapes.items():
        for dim, size in zip(_DIMS, (1, 1, height, width), strict=True):
            row[f"{tensor}_{dim}_PAD[LOGICAL]"] = f"{size}[{size}]"
        of_weight = tensor == "INPUT_1"
        row[f"{tensor}_DATATYPE"] = _datatype(weight.dtype if of_weight else weight.activation)
        in_dram = of_weight and not weight.is_prefetched
        row[f"{tensor}_MEMORY"] = "DEV_0_DRAM_INTERLEAVED" if in_dram else "DEV_0_L1_WIDTH_SHARDED"
    return row


def _datatype(dtype: DType) -> str:
    return {BFP4.name: "BFLOAT4_B", BFP8.name: "BFLOAT8_B"}.get(dtype.name, "BFLOAT16")
