"""Published times of Llama-70B on the 6U Galaxy: ops, steps and prompts; and of its links."""

import json
from functools import cache, partial

from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.program import Cross, Kernel
from galaxy_mpi.studies.datum import GALAXY, Datum, Machines, groups_of, op_margin
from galaxy_mpi.studies.published_runs import LLAMA
from galaxy_mpi.systems import PassShape
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.published import CALIBRATION, MORE

__all__ = ["galaxy_times", "link_times", "op_s", "prefill_ops", "read_more"]


def read_more() -> list[JsonObject]:
    """Return the records of the second set."""
    records: list[JsonObject] = json.loads(MORE.read_text("utf-8"))["records"]
    return records


def galaxy_times() -> list[Datum]:
    """Return the times of the first set."""
    content = json.loads(CALIBRATION.read_text("utf-8"))
    source, found = content["source"], []
    for kind, key in (("op", "decode_layer_us"), ("tail op", "decode_tail_us")):
        for name, micros in content[key].items():
            if name == "plus_one":
                continue
            found.append(
                Datum(
                    name,
                    micros * 1e-6,
                    op_margin(name),
                    partial(op_s, name, kind, GALAXY),
                    groups_of(GALAXY, 128, "llama3-70b", "galaxy", kind),
                    source["decode_ops"],
                    is_fitted=not name.endswith("_gap"),
                )
            )
    for entry in content["end_to_end"]:
        n_tokens = entry["input_tokens"]
        # PERF.md's 14.01 ms is for the 128th token after a prompt of 128.
        at = n_tokens + 127 if n_tokens == 128 else n_tokens + 64
        found.append(
            Datum(
                f"decode step, {n_tokens} tokens",
                entry["ms"] * 1e-3,
                0.01,
                partial(LLAMA.step_s, [at]),
                groups_of(GALAXY, n_tokens, "llama3-70b", "galaxy", "step"),
                source["end_to_end"],
                roofline_s=partial(LLAMA.roofline_s, 32, at),
            )
        )
    for entry in content["prefill_s"]:
        n_tokens = entry["tokens"]
        found.append(
            Datum(
                f"prefill, {n_tokens} tokens",
                entry["s"],
                0.02,
                partial(LLAMA.prefill_s, n_tokens),
                groups_of(GALAXY, n_tokens, "llama3-70b", "galaxy", "first token"),
                source["prefill"],
                roofline_s=partial(LLAMA.roofline_s, n_tokens, 0),
            )
        )
    return found


def op_s(name: str, kind: str, machine: str, machines: Machines) -> float:
    """Return the time of an op of a step at position 127, without the gap after it."""
    by_op_s, n_layers = _step_by_op(machines[machine])
    uses = n_layers if kind == "op" else 1
    gap_s = 0.0 if name.endswith("_gap") else machines[machine].op_gap_s
    return by_op_s[name] / uses - gap_s


@cache
def _step_by_op(machine: Machine) -> tuple[dict[str, float], int]:
    return LLAMA.by_op_s(127, machine)


# --- ops of a long prefill, and links

_PREFILL_OPS = {
    "qkv_matmul": ("qkv_matmul", 1),
    "wo_matmul": ("wo_matmul", 1),
    "ff1_matmul": ("w1_matmul", 1),
    "ff3_matmul": ("w3_matmul", 1),
    "qkv_reduce_scatter_axis1": ("all_reduce_qkv", 0),
    "wo_reduce_scatter_axis0": ("all_reduce_wo", 0),
    "ff1_reduce_scatter_axis1": ("reduce_scatter_w1", 0),
    "ff3_reduce_scatter_axis1": ("reduce_scatter_w3", 0),
    "ff2_all_gather_axis1": ("all_gather_w2_matmul", 0),
    "ff2_matmul": ("all_gather_w2_matmul", 1),
}
"""The op of each, and whether it is the op's matmul or its first collective."""


def prefill_ops() -> list[Datum]:
    """Return the times of ops of a prefill of 8,192 tokens."""
    found = []
    for record in read_more():
        if not record["id"].startswith("galaxy.prefill8k.op."):
            continue
        name = record["id"].rpartition(".")[2]
        found.append(
            Datum(
                f"prefill, 8192 tokens: {name}",
                record["value"] * 1e-6,
                0.10,
                partial(_prefill_op_s, name),
                groups_of(GALAXY, 8192, "llama3-70b", "galaxy", "prefill op"),
                record["source"],
            )
        )
    return found


def _prefill_op_s(name: str, machines: Machines) -> float:
    op, is_matmul = _PREFILL_OPS[name]
    for charge in _prefill_charges(machines[GALAXY]):
        if charge.name != op:
            continue
        if isinstance(charge, Cross):
            return charge.beside_s if is_matmul else charge.own_s + charge.wire_s
        assert not callable(charge.seconds), "only charges of attention depend on positions"
        return charge.seconds
    raise AssertionError(name)


@cache
def _prefill_charges(machine: Machine) -> list[Kernel | Cross]:
    program = LLAMA._programs(2).prefill(PassShape.of_prompt(8192))
    costs = Costs(machine)
    return [each for _, each in program.charges(costs) if isinstance(each, (Kernel, Cross))]


def link_times() -> list[Datum]:
    """Return the times of messages over links."""
    found = []
    for record in read_more():
        part = record["id"].split(".")
        if part[0] != "fabric":
            continue
        size = int(part[4])
        if part[2] == "bw":
            seconds, what = size / (record["value"] * 1e9), _packet_s
        else:
            seconds, what = record["value"] * 1e-9, _hop_s
        found.append(
            Datum(
                record["id"],
                seconds,
                0.05,
                partial(what, size),
                groups_of(GALAXY, 0, "none", "fabric", "link"),
                record["source"],
                is_fitted=False,
            )
        )
    return found


def _packet_s(size: int, machines: Machines) -> float:
    machine = machines[GALAXY]
    whole_s = Costs(machine).link_s(4096, 4096)
    return machine.link_packet_s + size / 4096 * (whole_s - machine.link_packet_s)


def _hop_s(size: int, machines: Machines) -> float:
    machine = machines[GALAXY]
    byte_s = 1 / machine.link_bytes_per_s
    return machine.link_hop_s + (size - 16) * byte_s
