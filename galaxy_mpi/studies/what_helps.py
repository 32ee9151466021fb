"""What halving each cost of a machine would save."""

from dataclasses import dataclass, replace

from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator

__all__ = ["Help", "helps", "helps_table"]

COSTS: dict[str, tuple[str, ...]] = {
    "DRAM bandwidth": (
        "dram_bytes_per_s",
        "streamed_bytes_per_s",
        "prefill_weight_bytes_per_s",
    ),
    "arithmetic": ("lofi_flops_per_core_s", "hifi2_flops_per_core_s", "hifi4_flops_per_core_s"),
    "vector unit": ("vector_elements_per_core_s", "add_elements_per_core_s"),
    "link bandwidth": (
        "link_bytes_per_s",
        "gather_bytes_per_worker_s",
        "scatter_bytes_per_worker_s",
        "generic_link_bytes_per_s",
    ),
    "link hops": ("link_hop_s", "generic_step_s"),
    "launching a collective": ("collective_s", "generic_collective_s"),
    "launching an op": ("launch_s", "stage_s", "ring_core_hop_s"),
    "multicasting activations": ("multicast_block_s",),
    "gaps between ops": ("op_gap_s",),
    "softmax of attention": (
        "softmax_passes",
        "generic_softmax_passes",
        "generic_attention_passes",
    ),
    "merges of attention": ("attention_merge_s",),
    "KV cache reads of cores": ("attention_bytes_per_core_s", "chunk_read_bytes_per_s"),
    "KV cache writes": ("dram_round_trip_s",),
    "host dispatch in prefill": ("prefill_op_s",),
    "other host work": ("host_step_s", "host_prompt_s", "host_value_s", "host_bytes_per_s"),
}
"""Constants that change together: rates double, times halve."""


@dataclass(frozen=True)
class Help:
    """One row."""

    what: str
    step_s: float
    first_token_s: float
    """Seconds saved."""


def helps(what_if: WhatIf) -> list[Help]:
    """Return the savings per step and in time to first token, largest first."""
    plain = what_if.times(what_if.estimator).to_dict()
    rows = []
    for what, names in COSTS.items():
        machine = _halved(what_if.emulated_machine, names)
        figures = what_if.times(_estimator(what_if, machine)).to_dict()
        rows.append(
            Help(
                what,
                plain["decode_step_s"] - figures["decode_step_s"],
                plain["time_to_first_token_s"] - figures["time_to_first_token_s"],
            )
        )
    return sorted(rows, key=lambda row: -row.step_s)


def _estimator(what_if: WhatIf, machine: Machine) -> Estimator:
    return Estimator(what_if.programs, machine, circular_buffer_bytes=what_if.circular_buffer_bytes)


def _halved(machine: Machine, names: tuple[str, ...]) -> Machine:
    changed = {}
    for name in names:
        is_rate = name.endswith("_per_s") or "_per_core_s" in name or "_per_worker_s" in name
        changed[name] = getattr(machine, name) * (2 if is_rate else 0.5)
    return replace(machine, **changed)


def helps_table(rows: list[Help], figures: dict[str, float]) -> str:
    """Return the rows as text."""
    step_s, first_s = figures["decode_step_s"], figures["time_to_first_token_s"]
    head = f"{'if this cost were halved':<34}{'per step':>10}{'':>8}{'first token':>13}{'':>8}"
    lines = [head]
    for row in rows:
        lines.append(
            f"{row.what:<34}{_saved(row.step_s * 1e6, 1):>7} us"
            f"{_saved(row.step_s / step_s * 100, 1):>7}%"
            f"{_saved(row.first_token_s * 1e3, 2):>10} ms"
            f"{_saved(row.first_token_s / first_s * 100, 1):>7}%"
        )
    return "\n".join(lines)


def _saved(value: float, decimals: int) -> str:
    """Return what is saved as a negative number, or 0."""
    return f"{-round(value, decimals) or 0.0:.{decimals}f}"
