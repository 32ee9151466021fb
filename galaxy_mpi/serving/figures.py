"""Figures of simulated traffic: latency, throughput, goodput, queues and utilization."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.engine.request import EndReason
from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.serving.served import Served
from galaxy_mpi.serving.service import Totals
from galaxy_mpi.timing.times import Peaks

__all__ = ["PERCENTILES", "Slo", "bands", "figures"]

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Slo:
    """Limits that a request must meet to count towards goodput; None: no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self.ttft_s is not None or self.tpot_s is not None

    def is_met(self, one: Served) -> bool:
        """Return whether a request was served completely and within the limits."""
        if not one.is_whole:
            return False
        times = ((one.ttft_s, self.ttft_s), (one.tpot_s, self.tpot_s))
        return all(most is None or took is None or took <= most for took, most in times)


def figures(
    served: Sequence[Served], totals: Totals, peaks: Peaks, n_blocks: int, slo: Slo
) -> JsonObject:
    """Return the figures of a simulation, with the unit in each name.

    Parameters
    ----------
    served : sequence of Served
    totals : Totals
    peaks : Peaks
    n_blocks : int
        Cache blocks of all columns together.
    slo : Slo

    Notes
    -----
    Rates and utilization are over ``duration_s``. ``e2e_s`` covers completed requests, ``ttft_s``
    all that got a first token, ``tpot_s`` all that got a second one. ``tokens_per_s_per_user`` is
    1 / mean ``tpot_s``; ``decode_tokens_per_s`` counts the tokens of decode steps over their time.
    """
    whole = [one for one in served if one.is_whole]
    duration_s = totals.end_s
    good = sum(map(slo.is_met, served))
    tpot = _spread([one.tpot_s for one in served if one.tpot_s is not None])
    steps_s = totals.busy_s["decode"]
    concurrency = _share(totals.waiting_s + totals.placed_s, duration_s)

    def a_second(amount: float) -> float:
        return _share(amount, duration_s)

    return {
        "requests": len(served),
        "completed": len(whole),
        **{
            reason.value: sum(one.ended is reason for one in served)
            for reason in (EndReason.CACHE_FULL, EndReason.REFUSED, EndReason.CANCELLED)
        },
        "duration_s": duration_s,
        "input_tokens": _mean([one.size.input_tokens for one in whole]),
        "output_tokens": _mean([one.output_tokens for one in whole]),
        "ttft_s": _spread([one.ttft_s for one in served if one.ttft_s is not None]),
        "tpot_s": tpot,
        "e2e_s": _spread([one.e2e_s for one in whole]),
        "queue_s": _spread([one.queue_s for one in served if one.start_s is not None]),
        "requests_per_s": a_second(len(whole)),
        "tokens_per_s": a_second(sum(one.output_tokens for one in served)),
        "tokens_per_s_per_user": 1 / tpot["mean"] if tpot["mean"] else 0.0,
        "decode_tokens_per_s": _share(totals.step_tokens, steps_s),
        "prefill_tokens_per_s": a_second(
            sum(
                one.size.input_tokens - one.cached_tokens
                for one in served
                if one.start_s is not None
            )
        ),
        "cached_tokens": sum(one.cached_tokens for one in served),
        "goodput_requests_per_s": a_second(good) if slo.is_set else None,
        "goodput_share": good / max(len(served), 1) if slo.is_set else None,
        "concurrency": concurrency,
        "queue_length": {"mean": a_second(totals.waiting_s), "max": totals.most_waiting},
        "users": {"mean": a_second(totals.placed_s), "max": totals.most_placed},
        "cache_occupancy": {
            "mean": a_second(totals.blocks_s) / n_blocks,
            "max": totals.most_blocks / n_blocks,
        },
        "dram_utilization": a_second(totals.dram_bytes) / peaks.dram_bytes_per_s,
        "flops_utilization": a_second(totals.flops) / peaks.flops_per_s,
        "link_utilization": {
            axis: a_second(n_bytes) / peaks.link_bytes_per_s
            for axis, n_bytes in totals.link_bytes.items()
        },
        "prefill_share": a_second(totals.busy_s["prefill"]),
        "decode_share": a_second(steps_s),
        "passes": len(totals.passes_s),
        "steps": len(totals.steps_s),
        "mode_switches": totals.switches,
        "decode_step_s": _share(steps_s, len(totals.steps_s)),
    }


def bands(low: Json, middle: Json, high: Json) -> Json:
    """Return the same structure with ``[low, high]`` in place of each number."""
    if isinstance(middle, dict):
        return {name: bands(low[name], middle[name], high[name]) for name in middle}
    known = [value for value in (low, middle, high) if value is not None]
    return [min(known), max(known)] if known else None


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and percentiles; None if there are no values."""
    names = ["mean", *(f"p{percent}" for percent in PERCENTILES)]
    if not values:
        return dict.fromkeys(names)
    percentiles = np.percentile(np.array(values), PERCENTILES).tolist()
    return dict(zip(names, [_mean(values), *percentiles], strict=True))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _share(amount: float, of: float) -> float:
    return amount / of if of else 0.0
