"""Device time of a run without weights, values or ranks: all chips in one process.

The model's program runs (`Transformer.prefill`, `Transformer.decode`) with systems that charge
clocks instead of computing; tensors are None.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from galaxy_mpi.device import Machine, MeshClock, Slowness
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import LlamaConfig, Transformer
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems import PageTable, Precision, PrefillPass, PrefillUser
from galaxy_mpi.systems.galaxy_prefill_timing import GalaxyPrefillTiming
from galaxy_mpi.systems.galaxy_timing import ChipSizes, GalaxyDecodeTiming

__all__ = ["DeviceTimes", "Estimator"]

PAGE_SIZE = 64


@dataclass
class DeviceTimes:
    """Seconds of device time; by op for chip (0, 0)."""

    n_layers: int
    users: int
    first_token_s: float
    step_s: list[float]
    by_op_s: dict[str, float] = field(default_factory=dict)
    """Of all decode steps."""
    prefill_by_op_s: dict[str, float] = field(default_factory=dict)
    prefetch_stall_s: float = 0.0
    """Of all decode steps."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the report, with the unit in each name."""
        n_steps = len(self.step_s)
        step_s = sum(self.step_s) / n_steps
        return {
            "decode_step_s": step_s,
            "decode_layer_s": step_s / self.n_layers,
            "time_to_first_token_s": self.first_token_s,
            "tokens_per_s_per_user": 1 / step_s,
            "tokens_per_s": self.users / step_s,
            "prefetch_stall_s": self.prefetch_stall_s / n_steps,
            "by_op_s": {name: s / n_steps for name, s in self.by_op_s.items()},
            "prefill_by_op_s": dict(self.prefill_by_op_s),
            "steps": n_steps,
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
    >>> 0.013 < estimator.decode([127]).step_s[0] < 0.015
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
        self.sizes = chip_sizes(model, mesh, users)
        weights, rotary = cast(Any, _NoWeights()), cast(Any, _NoRotary())
        self._transformer = Transformer(weights, rotary, cast(Any, [None] * model.n_layers))

    def run(self, input_tokens: int, new_tokens: int) -> DeviceTimes:
        """Return the times of prefilling one user and of decoding all users behind it."""
        times = self.decode(range(input_tokens, input_tokens + new_tokens))
        clock = self._prefilled(input_tokens)
        times.first_token_s = float(clock.now.max())
        times.prefill_by_op_s = clock.by_op_s
        return times

    def prefill_s(self, n_tokens: int) -> float:
        """Return the seconds of prefilling one user."""
        return float(self._prefilled(n_tokens).now.max())

    def decode(self, positions: Any) -> DeviceTimes:
        """Return the times of decode steps in which all users are at these positions."""
        clock = self._clock()
        system = GalaxyDecodeTiming(
            clock,
            self._machine,
            self._mesh,
            self._precision,
            self.sizes,
            prefetch=self._prefetch,
        )
        steps, empty = [], np.zeros((self.sizes.users_each, 1), np.int64)
        for position in positions:
            began = float(clock.now.max())
            table = PageTable(np.full(self.sizes.users_each, position), empty, PAGE_SIZE)
            self._transformer.decode(cast(Any, system), empty, table)
            steps.append(float(clock.now.max()) - began)
        return DeviceTimes(
            self._model.n_layers,
            self.sizes.users,
            0.0,
            steps,
            by_op_s=clock.by_op_s,
            prefetch_stall_s=float(clock.stall_s.max()),
        )

    def _clock(self) -> MeshClock:
        return MeshClock(self._machine, self._mesh, self._capacity, self._slowness)

    def _prefilled(self, n_tokens: int) -> MeshClock:
        clock = self._clock()
        clock.gap_s = self._machine.prefill_op_s
        tokens, blocks = np.zeros(n_tokens, np.int64), np.zeros(1, np.int64)
        work = PrefillPass((PrefillUser(tokens, 0, 0, blocks),))
        system = GalaxyPrefillTiming(
            clock, self._machine, self._mesh, self._precision, self.sizes, work
        )
        self._transformer.prefill(cast(Any, system), work)
        return clock


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
