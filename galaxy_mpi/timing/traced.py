"""Which passes and steps of a run are traced."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from galaxy_mpi.program import Choice

if TYPE_CHECKING:
    from galaxy_mpi.systems.prefill_pass import PassShape

__all__ = ["Events", "Traced"]

FIRST_STEPS = 4
"""Decode steps that a trace has without a choice, with the passes before the last of them: a step
of 80 layers on 32 chips has 300,000 events."""


class Traced:
    """Counts passes and steps, and decides which are traced.

    Parameters
    ----------
    steps : str, optional
        As `Choice` has them, ``p1,1-3``; None: the first ones.
    """

    def __init__(self, steps: str | None = None) -> None:
        self._choice = None if steps is None else Choice(steps=steps, option="--trace-steps")
        self._counts = Counter[str]()

    def begin(self, mode: str) -> str | None:
        """Count a pass (``prefill``) or a step (``decode``); return its name if it is traced."""
        is_wanted = self._counts["decode"] < FIRST_STEPS
        self._counts[mode] += 1
        number = self._counts[mode]
        if self._choice is not None:
            is_wanted = self._choice.has_run(mode, number)
        return f"{mode} {number}" if is_wanted else None


@dataclass
class Events:
    """What the passes and steps that are traced were about, in order."""

    traced: Traced = field(default_factory=Traced)
    events: "list[tuple[str, list[int] | PassShape]]" = field(default_factory=list)
    """Name, and of a step the list of the longest position in each column; of a pass its shape."""
    shown: tuple[int, list[int]] | None = None
    """The step that pages show, number and positions: the last one traced, or else the first."""
    n_steps: int = 0

    def add(self, event: "list[int] | PassShape") -> None:
        """Note a step or a pass, if it is traced."""
        is_step = isinstance(event, list)
        name = self.traced.begin("decode" if is_step else "prefill")
        self.n_steps += is_step
        if isinstance(event, list) and (name is not None or self.shown is None):
            self.shown = self.n_steps, event
        if name is not None:
            self.events.append((name, event))
