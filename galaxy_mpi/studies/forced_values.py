"""Values after every op while a text is fed, of several precisions, compared with float32.

The values are captured and compared as by ``decode --against float32``; here the tokens are those
of a text, and one float32 run serves all precisions.
"""

from dataclasses import replace
from pathlib import Path

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.capture import Capture
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.teacher import forced_answers
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.program import Choice
from galaxy_mpi.studies.differences import Differences, compare_captures

__all__ = ["BY_OP_STEPS", "ForcedValues", "chosen_steps"]

BY_OP_STEPS = "p1,1-4"
"""The pass and the first four steps."""

_REFERENCE = "float32"


def chosen_steps(text: str, n_tokens: int, n_prefilled: int) -> Choice:
    """Return which values to capture.

    Parameters
    ----------
    text : str
        The pass and steps, such as `BY_OP_STEPS`.
    n_tokens, n_prefilled : int
        Tokens of the text, and those of its only pass.

    Raises
    ------
    ConfigError
        If the text is malformed or names nothing that runs.

    Examples
    --------
    >>> chosen_steps("1-4", 1024, 512).steps
    '1-4'
    """
    choice = Choice(steps=text, option="--by-op")
    n_steps = max(0, n_tokens - n_prefilled - 1)
    if not choice.names_any(1, n_steps):
        raise ConfigError(
            f"--by-op {text} names nothing that runs; this text has pass p1 and {n_steps} steps"
        )
    return choice


class ForcedValues:
    """Captures of runs over one text.

    Parameters
    ----------
    folder : Path
        For the values; only rank 0 writes.
    run : RunConfig
    model : LlamaConfig
    transport : Transport
    choice : Choice
    """

    def __init__(
        self,
        folder: Path,
        run: RunConfig,
        model: LlamaConfig,
        transport: Transport,
        choice: Choice,
    ) -> None:
        self._folder, self._choice, self._transport = folder, choice, transport
        self._run, self._layout = run, run.layout(model)

    def run_reference(self, plan: Plan, tokens: list[int], n_prefilled: int) -> None:
        """Feed the tokens in float32 and keep the values. Collective."""
        run = replace(self._run, precision="float32", optimizations=None, formats=None)
        precision = run.wanted.on(run.emulated_system, plan.model)
        watchers = [self._capture(_REFERENCE)]
        forced_answers(run, plan, self._transport, tokens, precision, n_prefilled, watchers)

    def other(self) -> Capture:
        """Return what captures a run to be compared, in place of the one before. Collective."""
        return self._capture("other")

    def differences(self) -> Differences:
        """Compare the latest run with float32; on rank 0 only."""
        return compare_captures(self._folder / "other", self._folder / _REFERENCE)

    def _capture(self, name: str) -> Capture:
        return Capture(self._folder / name, self._choice, self._layout, self._transport)
