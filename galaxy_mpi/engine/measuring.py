"""Accuracy of precisions that rank 0 asks for one after another, measured by all ranks."""

from collections.abc import Callable, Sequence
from typing import NoReturn

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.forced_pass import ForcedPass
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.quality import Quality, Reference
from galaxy_mpi.errors import CollectiveError, UserError
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.systems.precision import FLOAT32_PRECISION
from galaxy_mpi.systems.settings import Setting

__all__ = ["Measuring"]


class Measuring:
    """The passes of a text on all ranks; the float32 run is the reference. Collective.

    Parameters
    ----------
    run : RunConfig
        With the mesh, the system and what is stored otherwise than by its table.
    plan : Plan
    transport : Transport
    tokens : sequence of int
        The text.
    measured : callable
        Called after each measurement, on rank 0.
    """

    def __init__(
        self,
        run: RunConfig,
        plan: Plan,
        transport: Transport,
        tokens: Sequence[int],
        measured: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._plan, self._transport = run, plan, transport
        self._measured = measured
        self.passes = ForcedPass(run, plan, transport, tokens)
        self.reference = Reference(transport, self.passes.logits(FLOAT32_PRECISION), tokens)
        self.n_passes = 1
        measured()

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self._plan.model.n_layers

    @property
    def checksums(self) -> dict[str, str | None]:
        """Of the model's weights and of its tokenizer, for reports."""
        return self._plan.checksums

    def lead(self, search: Callable[[], None]) -> None:
        """Run a search on rank 0, which calls `measure`; the other ranks do what it asks for.

        Raises
        ------
        UserError
            On all ranks alike.
        """
        if self._transport.rank != 0:
            while self._step(lambda: None) is not None:
                pass
            return
        try:
            search()
        except UserError as error:
            # After an error in an exchange, the other ranks are still in it.
            if not error.is_common and not isinstance(error, CollectiveError):
                failure = error  # `error` is gone when a lambda may look at it
                self._transport.from_root(lambda: _fail(failure))
            raise
        self._transport.from_root(lambda: None)

    def measure(self, layers: Sequence[Setting], *, keeps: bool = False) -> Quality:
        """Return the figures of a setting for each layer; on rank 0, in a search.

        Parameters
        ----------
        layers : sequence of Setting
        keeps : bool
            See `ForcedPass.logits`.
        """
        quality = self._step(lambda: (tuple(layers), keeps))
        assert isinstance(quality, Quality)
        return quality

    def _step(
        self, ask: Callable[[], tuple[tuple[Setting, ...], bool] | None]
    ) -> Quality | bool | None:
        """Measure what rank 0 asks for; None at the end. Figures are on rank 0 only."""
        asked = self._transport.from_root(ask)
        if asked is None:
            return None
        layers, keeps = asked
        system, model = self._run.emulated_system, self._plan.model
        precision = self._run.wanted.of_layers(system, model, layers, "candidate")
        quality = self.reference.compare(self.passes.logits(precision, keeps=keeps))
        self.n_passes += 1
        if quality is not None:
            self._measured()
        return quality or True


def _fail(error: UserError) -> NoReturn:
    raise error
