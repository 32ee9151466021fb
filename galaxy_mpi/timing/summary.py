"""Device figures as text: rows of the summary, and a table of ops."""

from collections.abc import Sequence

from galaxy_mpi.arrays import added
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh import Axis
from galaxy_mpi.output import plural
from galaxy_mpi.timing.budget import Budget
from galaxy_mpi.timing.slowness import Slowness

__all__ = ["NO_STEP", "budget_rows", "device_rows", "op_table", "straggler_rows"]

NO_STEP = "none (the first new token comes from prefill)"

Rows = list[tuple[str, str]]


def device_rows(figures: JsonObject) -> Rows:
    """Return name and value of each figure of `DeviceTimes.to_dict`; few if there was no step."""
    first = f"{figures['time_to_first_token_s'] * 1e3:.2f} ms (mean)"
    first_row = ("device: time to first token", _with_band(first, figures, "time_to_first_token_s"))
    if not figures["steps"]:
        return [("device: decode step", NO_STEP), first_row]
    step_s, stall_s = figures["decode_step_s"], figures["prefetch_stall_s"]
    stall = stall_s / step_s if step_s else 0.0
    links = ", ".join(f"{a} {n / 2**10:.1f} KiB" for a, n in figures["link_bytes"].items())
    step = f"{step_s * 1e3:.3f} ms, {plural(figures['steps'], 'step')}"
    return [
        ("device: decode step", _with_band(step, figures, "decode_step_s")),
        ("device: decode layer", f"{figures['decode_layer_s'] * 1e6:.2f} us"),
        ("device: tokens/s/user", f"{figures['tokens_per_s_per_user']:.2f}"),
        ("device: tokens/s", f"{figures['tokens_per_s']:.1f} (all users)"),
        first_row,
        ("device: prefetch stall", f"{stall_s * 1e6:.1f} us per step ({stall:.1%})"),
        ("device: share of peak", _of_peak(figures)),
        ("device: ops are bound by", _waits(figures)),
        ("device: bytes per link", f"{links} per step" if links else "none"),
    ]


LEAST_WAIT = 0.01
"""A straggler is reported when the others wait for it longer than this share of a step."""


def straggler_rows(stragglers: Sequence[JsonObject], step_s: float, slowness: Slowness) -> Rows:
    """Return a row that names the stragglers, or none if they cost little.

    Those that a slow link makes wait are named by that link.
    """
    told = [one for one in stragglers if one["waited_s"] > LEAST_WAIT * step_s]
    if not told:
        return []
    longest_s = told[0]["waited_s"]
    names = list(dict.fromkeys(_straggler(one["chip"], slowness) for one in told))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return [
        (
            "device: stragglers",
            f"others wait in collectives, up to {longest_s * 1e6:.1f} us per step "
            f"({longest_s / step_s:.1%}), for {', '.join(names[:4])}{more}",
        )
    ]


def _straggler(chip: Sequence[int], slowness: Slowness) -> str:
    row, col = chip
    if (row, col) not in slowness.chips:
        for (from_row, from_col, axis), factor in slowness.links.items():
            place, number = (col, from_col) if axis is Axis.COLUMN else (row, from_row)
            if place == number and factor > 1:
                return f"{axis.group_name} {number} with the slow link of ({from_row}, {from_col})"
    return f"({row}, {col})"


def _with_band(text: str, figures: dict[str, object], name: str) -> str:
    """Return a figure followed by its regime and margin, if these are known."""
    margin = figures.get(f"{name}_margin")
    return text if margin is None else f"{text}, {figures[f'{name}_regime']}, +-{margin:.0%}"


def _of_peak(figures: JsonObject) -> str:
    links = ", ".join(f"{a} links {share:.1%}" for a, share in figures["link_utilization"].items())
    shares = f"DRAM {figures['dram_utilization']:.1%}, FLOPS {figures['flops_utilization']:.1%}"
    return f"{shares}, {links}" if links else shares


def _waits(figures: JsonObject) -> str:
    """Return the largest costs of ops with their shares of the time, largest share first."""
    total_s = added(figures["by_bound_s"].values())
    known = sorted(figures["by_bound_s"].items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {s / total_s:.0%}" for name, s in known) or "nothing"


def budget_rows(budget: Budget) -> Rows:
    """Return the memory that one chip needs."""

    def mib(n_bytes: float) -> str:
        return f"{n_bytes / 2**20:.1f} MiB"

    return [
        ("device: memory per chip", ""),
        ("  weights, embedding", mib(budget.weights_bytes + budget.embedding_bytes)),
        ("  KV cache", mib(budget.kv_cache_bytes)),
        ("  persistent buffers", f"{mib(budget.persistent_buffers_bytes)} (L1)"),
        ("  circular buffer", f"{mib(budget.circular_buffer_bytes)} (L1)"),
    ]


def op_table(figures: JsonObject, most: int | None = None) -> list[str]:
    """Return a line for each op of a decode step, longest first, at most ``most`` of them."""
    lines = [f"{'op of a decode step, chip (0, 0)':<34}{'us/step':>11}{'share':>8}  bound by"]
    bounds = figures["bound_by_op"]
    ops = sorted(figures["by_op_s"].items(), key=lambda item: -item[1])
    known = [(name, seconds) for name, seconds in ops if seconds > 0]
    for name, seconds in known[:most]:
        share = seconds / figures["decode_step_s"]
        lines.append(f"{name:<34}{seconds * 1e6:>11.1f}{share:>8.1%}  {bounds[name]}")
    if most is not None and len(known) > most:
        lines.append(f"... and {len(known) - most} more ops (--json lists all)")
    return lines
