"""Device time of passes and steps, and of a run as their sum."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from galaxy_mpi.arrays import added
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.timing.machine import Machine

__all__ = ["DeviceTimes", "ModeSums", "Peaks", "Timing"]


@dataclass(frozen=True)
class Timing:
    """Device time of one pass or step; by op for chip (0, 0)."""

    seconds: float
    by_op_s: dict[str, float]
    stall_s: float
    """Of the chip that waited longest for its prefetcher."""
    core_s: float
    """Core-seconds that ops of chip (0, 0) occupied, arithmetic of collectives not counted."""
    link_bytes: dict[str, float]
    """Of the busiest link of each axis, one direction."""
    dram_bytes: float = 0.0
    """Read and written by chip (0, 0), prefetched weights with it."""
    flops: float = 0.0
    """Of chip (0, 0), as if at LoFi (`galaxy_mpi.program.Spent`)."""
    bound_of: dict[str, str] = field(default_factory=dict)
    """What each op waits for most of its time: names of `galaxy_mpi.program.Bound`."""
    by_bound_s: dict[str, float] = field(default_factory=dict)
    """Seconds of chip (0, 0) by what it waits for."""
    waits_s: dict[int, dict[int, float]] = field(default_factory=dict)
    """Seconds that chips waited in collectives: by rank of the chip that waited, and of the chip
    that entered last. Empty unless wanted (`MeshClock`)."""


@dataclass(frozen=True)
class Peaks:
    """What a chip could do in a second."""

    dram_bytes_per_s: float
    flops_per_s: float
    """At LoFi, all cores."""
    link_bytes_per_s: float
    """Of one link, one direction."""

    @classmethod
    def of(cls, machine: Machine) -> "Peaks":
        """Return those of a machine."""
        flops = machine.prefill_cores * machine.lofi_flops_per_core_s
        return cls(machine.dram_bytes_per_s, flops, machine.link_bytes_per_s)


def _sums() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass
class ModeSums:
    """What the timings of all decode steps, or of all passes, add up to, on chip (0, 0)."""

    by_op_s: defaultdict[str, float] = field(default_factory=_sums)
    by_bound_s: defaultdict[str, float] = field(default_factory=_sums)
    link_bytes: defaultdict[str, float] = field(default_factory=_sums)
    """Of the busiest link of each axis."""
    dram_bytes: float = 0.0
    flops: float = 0.0
    bound_of: dict[str, str] = field(default_factory=dict)
    """Of the last one."""

    def add(self, timing: Timing) -> None:
        """Add one step or pass."""
        self.dram_bytes += timing.dram_bytes
        self.flops += timing.flops
        self.bound_of = timing.bound_of
        for sums, more in (
            (self.by_op_s, timing.by_op_s),
            (self.by_bound_s, timing.by_bound_s),
            (self.link_bytes, timing.link_bytes),
        ):
            for name, value in more.items():
                sums[name] += value


@dataclass
class DeviceTimes:
    """Device time of a run: sums over its passes and steps."""

    n_layers: int
    peaks: Peaks
    now_s: float = 0.0
    """Device time since the beginning."""
    step_s: list[float] = field(default_factory=list)
    pass_s: list[float] = field(default_factory=list)
    n_step_tokens: int = 0
    steps: ModeSums = field(default_factory=ModeSums)
    passes: ModeSums = field(default_factory=ModeSums)
    prefetch_stall_s: float = 0.0
    """Of all decode steps."""
    first_token_s: dict[int, float] = field(default_factory=dict)
    """When each request had its first token, by number: waiting for a place included."""
    queue_s: dict[int, float] = field(default_factory=dict)
    """When the pass of each request began."""
    last_token_s: dict[int, float] = field(default_factory=dict)
    """When each request had its last token; in a run only."""

    def add_prefill(self, timing: Timing, requests: Sequence[int]) -> None:
        """Note a pass that gave ``requests`` their first tokens."""
        self.passes.add(timing)
        self.end_prefill(timing.seconds, requests)

    def add_step(self, timing: Timing, n_tokens: int) -> None:
        """Note a step that gave so many tokens."""
        self.steps.add(timing)
        self.end_step(timing.seconds, timing.stall_s, n_tokens)

    def end_prefill(self, seconds: float, requests: Sequence[int]) -> None:
        """Let time pass by a pass; what it was spent on is in `passes`."""
        self.queue_s |= dict.fromkeys(requests, self.now_s)
        self.now_s += seconds
        self.pass_s.append(seconds)
        for request in requests:
            self.first_token_s[request] = self.now_s

    def end_step(self, seconds: float, stall_s: float, n_tokens: int) -> None:
        """Let time pass by a step; what it was spent on is in `steps`."""
        self.now_s += seconds
        self.step_s.append(seconds)
        self.prefetch_stall_s += stall_s
        self.n_step_tokens += n_tokens

    def to_dict(self) -> JsonObject:
        """Return the figures of the report, with the unit in each name; means over the steps.

        ``time_to_first_token_s`` is the mean over requests from the beginning of the run to the
        end of the pass that gave their first token. ``tokens_per_s_per_user`` is steps over their
        time, ``tokens_per_s`` the tokens of all users in steps over the same. ``by_op_s`` is of
        chip (0, 0), gaps and waiting included, and adds up to its step. ``dram_utilization``,
        ``flops_utilization`` and ``link_utilization`` are shares of the peak of DRAM, of all cores
        at LoFi, and of a link; ``bottleneck`` is what most of a step waits for, ``bound_by_op``
        what each op does.
        """
        peaks = self.peaks
        n_steps, total_s = max(len(self.step_s), 1), added(self.step_s)
        first = self.first_token_s.values()
        return {
            "decode_step_s": total_s / n_steps,
            "decode_layer_s": total_s / n_steps / self.n_layers,
            "time_to_first_token_s": added(first) / len(first) if first else 0.0,
            "tokens_per_s_per_user": len(self.step_s) / total_s if total_s else 0.0,
            "tokens_per_s": self.n_step_tokens / total_s if total_s else 0.0,
            "prefetch_stall_s": self.prefetch_stall_s / n_steps,
            "dram_utilization": self.steps.dram_bytes / (total_s * peaks.dram_bytes_per_s)
            if total_s
            else 0.0,
            "flops_utilization": self.steps.flops / (total_s * peaks.flops_per_s)
            if total_s
            else 0.0,
            "link_utilization": {
                axis: n_bytes / (total_s * peaks.link_bytes_per_s) if total_s else 0.0
                for axis, n_bytes in self.steps.link_bytes.items()
            },
            "bottleneck": _largest(self.steps.by_bound_s),
            "prefill_bottleneck": _largest(self.passes.by_bound_s),
            "by_bound_s": {name: s / n_steps for name, s in self.steps.by_bound_s.items()},
            "bound_by_op": self.steps.bound_of,
            "prefill_bound_by_op": self.passes.bound_of,
            "by_op_s": {name: s / n_steps for name, s in self.steps.by_op_s.items()},
            "link_bytes": {
                axis: n_bytes / n_steps for axis, n_bytes in self.steps.link_bytes.items()
            },
            "prefill_by_op_s": dict(self.passes.by_op_s),
            "steps": len(self.step_s),
            "run_s": self.now_s,
        }


def _largest(by_name: dict[str, float]) -> str | None:
    return max(by_name, key=lambda name: by_name[name]) if by_name else None
