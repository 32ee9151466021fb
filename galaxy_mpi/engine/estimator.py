"""Device time of a run without weights, values or ranks: all chips in one process.

The model's program runs (`Transformer.prefill`, `Transformer.decode`) with systems that charge
clocks instead of computing; tensors are None.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from galaxy_mpi.device import Machine, MeshClock, Slowness, Trace
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import LlamaConfig, Transformer
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems import PageTable, Precision, PrefillPass, PrefillUser
from galaxy_mpi.systems.galaxy_prefill_timing import GalaxyPrefillTiming
from galaxy_mpi.systems.galaxy_timing import ChipSizes, GalaxyDecodeTiming

__all__ = ["DeviceTimes", "Estimator", "Timing"]

PAGE_SIZE = 64


@dataclass(frozen=True)
class Timing:
    """Device time of one pass or step; by op for chip (0, 0)."""

    seconds: float
    by_op_s: dict[str, float]
    stall_s: float
    """Of the chip that waited longest for its prefetcher."""
    link_bytes: dict[str, float]
    """Of the busiest link of each axis, one direction."""


@dataclass
class DeviceTimes:
    """Device time of a run: sums over its passes and steps."""

    n_layers: int
    now_s: float = 0.0
    """Device time since the beginning."""
    step_s: list[float] = field(default_factory=list)
    n_step_tokens: int = 0
    by_op_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of all decode steps."""
    prefill_by_op_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    prefetch_stall_s: float = 0.0
    """Of all decode steps."""
    link_bytes: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of the busiest link of each axis, in all decode steps."""
    first_token_s: dict[int, float] = field(default_factory=dict)
    """When each request had its first token, by number: waiting for a place included."""

    def add_prefill(self, timing: Timing, requests: Sequence[int]) -> None:
        """Note a pass that gave ``requests`` their first tokens."""
        self.now_s += timing.seconds
        for name, seconds in timing.by_op_s.items():
            self.prefill_by_op_s[name] += seconds
        for request in requests:
            self.first_token_s[request] = self.now_s

    def add_step(self, timing: Timing, n_tokens: int) -> None:
        """Note a step that gave so many tokens."""
        self.now_s += timing.seconds
        self.step_s.append(timing.seconds)
        self.n_step_tokens += n_tokens
        self.prefetch_stall_s += timing.stall_s
        for axis, n_bytes in timing.link_bytes.items():
            self.link_bytes[axis] += n_bytes
        for name, seconds in timing.by_op_s.items():
            self.by_op_s[name] += seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the report, with the unit in each name; means over the steps."""
        n_steps, total_s = max(len(self.step_s), 1), sum(self.step_s)
        first = self.first_token_s.values()
        return {
            "decode_step_s": total_s / n_steps,
            "decode_layer_s": total_s / n_steps / self.n_layers,
            "time_to_first_token_s": sum(first) / len(first) if first else 0.0,
            "tokens_per_s_per_user": len(self.step_s) / total_s if total_s else 0.0,
            "tokens_per_s": self.n_step_tokens / total_s if total_s else 0.0,
            "prefetch_stall_s": self.prefetch_stall_s / n_steps,
            "by_op_s": {name: s / n_steps for name, s in self.by_op_s.items()},
            "link_bytes": {axis: n_bytes / n_steps for axis, n_bytes in self.link_bytes.items()},
            "prefill_by_op_s": dict(self.prefill_by_op_s),
            "steps": len(self.step_s),
            "run_s": self.now_s,
        }


class _NoWeights:
    """Names of weights, and nothing behind them."""

    def __init__(self) -> None:
        self.gains: defaultdict[Any, Any] = defaultdict(lambda: None)
        self.gains[-1, "norm"] = "norm"
        self.head = [WeightId(-1, "lm_head")]

    def embed(self, tokens: Any) -> Any:
        return None


class _NoRotary:
    def at(self, positions: Any) -> Any:
        return None


class Estimator:
    """Device time of one model on one machine.

    Every pass and every step is timed from a common start of all chips, because sampling joins
    them. So its time is a function of what it does, and is kept for the next one that does the
    same.

    Parameters
    ----------
    model : LlamaConfig
    machine : Machine
    mesh : Mesh
    precision : Precision
    users : int
        Of a decode step.
    prefetch : bool
    circular_buffer_bytes : float, optional
        Device bytes; the machine's by default.
    slowness : Slowness, optional
        Chips and links that are slower than they should be.

    Examples
    --------
    >>> from galaxy_mpi.models.presets import PRESETS
    >>> from galaxy_mpi.systems import PRECISIONS
    >>> machine = Machine.load("wormhole_galaxy_6u")
    >>> model, precision = PRESETS["llama3-70b"], PRECISIONS["performance"]
    >>> estimator = Estimator(model, machine, Mesh(8, 4), precision, users=32)
    >>> 0.013 < estimator.step([127] * 4).seconds < 0.015
    True
    """

    def __init__(
        self,
        model: LlamaConfig,
        machine: Machine,
        mesh: Mesh,
        precision: Precision,
        *,
        users: int,
        prefetch: bool = True,
        circular_buffer_bytes: float | None = None,
        slowness: Slowness | None = None,
    ) -> None:
        self._model, self._machine, self._mesh, self._precision = model, machine, mesh, precision
        self._prefetch, self._capacity = prefetch, circular_buffer_bytes
        self._slowness = slowness
        self._known: dict[tuple[Any, ...], Timing] = {}
        self.sizes = chip_sizes(model, mesh, users)
        weights, rotary = cast(Any, _NoWeights()), cast(Any, _NoRotary())
        self._transformer = Transformer(weights, rotary, cast(Any, [None] * model.n_layers))

    def run(self, input_tokens: int, new_tokens: int) -> DeviceTimes:
        """Return the times of prefilling one user and of decoding all users behind it."""
        times = DeviceTimes(self._model.n_layers)
        times.add_prefill(self.prefill(input_tokens), [0])
        for position in range(input_tokens, input_tokens + new_tokens):
            times.add_step(self.step([position] * self._mesh.cols), self.sizes.users)
        return times

    def prefill(self, n_tokens: int) -> Timing:
        """Return the time of prefilling one user with nothing cached."""
        tokens, blocks = np.zeros(n_tokens, np.int64), np.zeros(1, np.int64)
        return self.prefill_pass(PrefillPass((PrefillUser(tokens, 0, 0, blocks),)))

    def prefill_pass(self, work: PrefillPass) -> Timing:
        """Return the time of a pass."""
        what = ("prefill", work.n_parts, work.length, work.start)
        if what not in self._known:
            clock = self._clock()
            clock.gap_s = self._machine.prefill_op_s
            system = GalaxyPrefillTiming(
                clock, self._machine, self._mesh, self._precision, self.sizes, work
            )
            self._transformer.prefill(cast(Any, system), work)
            self._known[what] = _timing(clock)
        return self._known[what]

    def step(self, positions: Sequence[int]) -> Timing:
        """Return the time of a decode step.

        Parameters
        ----------
        positions : sequence of int
            The longest user's position in each column; -1 for a column without users.
        """
        # Attention works on whole tiles of positions.
        what = ("decode", *(padded(position + 1) for position in positions))
        if what not in self._known:
            self._known[what] = self._decoded(positions, None)
        return self._known[what]

    def trace_step(self, positions: Sequence[int]) -> Trace:
        """Return the trace of a decode step; see `step`."""
        trace = Trace(self._mesh)
        self._decoded(positions, trace)
        return trace

    def _decoded(self, positions: Sequence[int], trace: Trace | None) -> Timing:
        clock = self._clock(trace)
        system = GalaxyDecodeTiming(
            clock,
            self._machine,
            self._mesh,
            self._precision,
            self.sizes,
            prefetch=self._prefetch,
        )
        nowhere = np.zeros((len(positions), 1), np.int64)
        table = PageTable(np.array(positions, np.int64), nowhere, PAGE_SIZE)
        self._transformer.decode(cast(Any, system), nowhere, table)
        return _timing(clock)

    def _clock(self, trace: Trace | None = None) -> MeshClock:
        return MeshClock(self._machine, self._mesh, self._capacity, self._slowness, trace)


def _timing(clock: MeshClock) -> Timing:
    return Timing(
        float(clock.now.max()),
        dict(clock.by_op_s),
        float(clock.stall_s.max()),
        {axis.name: n_bytes for axis, n_bytes in clock.link_bytes.items()},
    )


def chip_sizes(model: LlamaConfig, mesh: Mesh, users: int) -> ChipSizes:
    """Return a model's sizes on one chip; what does not divide is rounded up."""

    def share(size: int, parts: int) -> int:
        return -(-size // parts)

    heads, kv_heads = share(model.n_heads, mesh.rows), share(model.n_kv_heads, mesh.rows)
    return ChipSizes(
        users=users,
        users_each=share(users, mesh.cols),
        dim=share(model.dim, mesh.cols),
        qkv=(heads + 2 * kv_heads) * model.head_dim,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=model.head_dim,
        hidden=share(model.hidden_dim, mesh.rows),
        hidden_shard=share(model.hidden_dim, mesh.n_chips),
        vocab=padded(share(model.vocab_size, mesh.rows), 1024),
    )
