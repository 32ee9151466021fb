"""The model's program, charged to a clock instead of computed; every tensor is None."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from galaxy_mpi.ccl import PersistentBuffers
from galaxy_mpi.device import Charged, Machine
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, LlamaConfig, Transformer
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems import PageTable, Precision, PrefillPass, System, system_of
from galaxy_mpi.systems.timing import ChipSizes, Emulated

__all__ = ["DeviceProgram", "chip_sizes"]

PAGE_SIZE = 64


class DeviceProgram:
    """Prefill passes and decode steps of one model, as charges.

    Parameters
    ----------
    model : LlamaConfig
    machine : Machine
    mesh : Mesh
        As asked for; that on which the system works is the attribute ``mesh``.
    precision : Precision
    users : int
        Of a decode step.
    prefetch : bool
        Whether there is a prefetcher where the system has one.
    system : System, optional
        The Galaxy by default.
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
        system: System | None = None,
    ) -> None:
        system = system or system_of("galaxy", mesh)
        self.asked_mesh, self.mesh = mesh, system.mesh(mesh)
        self.model, self.precision = model, precision
        self.machine = system.fabric.on(machine)
        self.layout = Layout(model, self.mesh, system.is_scattered)
        self.sizes = chip_sizes(self.layout, users)
        self._emulated = Emulated(self.machine, self.mesh, precision, self.sizes, system.fabric)
        self.has_prefetcher = prefetch and system.prefetch
        self.is_persistent = system.buffers is PersistentBuffers
        self._system = system
        weights, rotary = cast(Any, _NoWeights(model)), cast(Any, _NoRotary())
        self._transformer = Transformer(weights, rotary, cast(Any, [None] * model.n_layers))

    def prefill(self, clock: Charged, work: PrefillPass) -> None:
        """Charge a pass."""
        system = self._system.prefill_timing(clock, self._emulated, work)
        self._transformer.prefill(cast(Any, system), work)

    def decode(self, clock: Charged, positions: Sequence[int]) -> None:
        """Charge a step.

        Parameters
        ----------
        clock : Charged
        positions : sequence of int
            The longest user's position in each column; -1 for a column without users.
        """
        system = self._system.decode_timing(clock, self._emulated, prefetch=self.has_prefetcher)
        nowhere = np.zeros((len(positions), 1), np.int64)
        table = PageTable(np.array(positions, np.int64), nowhere, PAGE_SIZE)
        self._transformer.decode(cast(Any, system), nowhere, table)

    @staticmethod
    def of_prefill(work: PrefillPass) -> tuple[Any, ...]:
        """Return what the charges of a pass depend on."""
        return ("prefill", work.n_parts, work.length, work.start)

    @staticmethod
    def of_decode(positions: Sequence[int]) -> tuple[Any, ...]:
        """Return what the charges of a step depend on: attention works on tiles of positions."""
        return ("decode", *(padded(position + 1) for position in positions))


class _NoWeights:
    """Names of weights, and nothing behind them."""

    def __init__(self, model: LlamaConfig) -> None:
        names = ["attention_norm", "ffn_norm", *["q_norm", "k_norm"] * model.qk_norm]
        layers = range(model.n_layers)
        self.vectors = {(layer, name): name for layer in layers for name in names}
        self.vectors[-1, "norm"] = "norm"
        self.head = [WeightId(-1, "lm_head")]

    def embed(self, tokens: Any) -> Any:
        return None


class _NoRotary:
    def at(self, positions: Any) -> Any:
        return None


def chip_sizes(layout: Layout, users: int) -> ChipSizes:
    """Return a model's sizes on one chip."""
    model, mesh = layout.config, layout.mesh
    return ChipSizes(
        users=users,
        users_each=-(-users // mesh.cols),
        dim=layout.dim,
        stream=layout.stream,
        qkv=(layout.n_heads + 2 * layout.slots_per_row) * model.head_dim,
        heads=layout.n_heads,
        kv_heads=layout.slots_per_row,
        head_dim=model.head_dim,
        hidden=layout.hidden,
        hidden_shard=layout.hidden // mesh.cols,
        vocab=padded(layout.vocab, 1024),
    )
