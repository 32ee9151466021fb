"""When each op of chip (0, 0) ended on the host's clock, in one of the first decode steps."""

import time
from typing import Any

from galaxy_mpi.program import Binder, Program, Tap, Use
from galaxy_mpi.timing.replay import TRACED_STEPS

__all__ = ["HostOp", "OpTimes"]

HostOp = tuple[int, str, float, float]
"""Layer, name, begin and end in seconds of the host's clock; from the end of the op before."""


class OpTimes:
    """Looks at the clock behind every op; a `galaxy_mpi.engine.modes.Watcher`.

    Attributes
    ----------
    ops : list of HostOp
        Of the last step that was noted: the fourth, or the last of fewer.
    step : int
        Its number, from 1; 0 if there was none.
    """

    def __init__(self) -> None:
        self.ops: list[HostOp] = []
        self.step = 0
        self._uses: list[Use] = []
        self._ends: list[float] = []
        self._is_decode = False

    def tap(self, program: Program) -> Tap:
        """Return what notes the time behind the ops of a decode step."""
        if program.mode != "decode":
            return _nothing
        self._uses = []

        def tap(chip: Binder, use: Use, outputs: tuple[Any, ...]) -> None:
            if chip.rank == 0:
                self._uses.append(use)
                chip.call(self._note)

        return tap

    def start(self, mode: str) -> None:
        """Begin a pass or a step."""
        self._is_decode = mode == "decode"
        self._ends = [time.perf_counter()]

    def end(self, program: Program) -> None:
        """End it."""
        if not self._is_decode or self.step >= TRACED_STEPS:
            return
        self.step += 1
        spans = zip(self._uses, self._ends, self._ends[1:], strict=False)
        self.ops = [(use.layer, use.op.name, begin, end) for use, begin, end in spans]

    def _note(self) -> None:
        self._ends.append(time.perf_counter())


def _nothing(chip: Binder, use: Use, outputs: tuple[Any, ...]) -> None:
    """Add no calls."""
