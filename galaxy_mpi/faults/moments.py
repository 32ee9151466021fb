"""When a fault happens: traps around what a run calls, set before it starts."""

from collections.abc import Callable

from galaxy_mpi.engine import engine
from galaxy_mpi.mesh import mpi, planes
from galaxy_mpi.mesh.plane import Crossing
from galaxy_mpi.program.binder import Call
from galaxy_mpi.program.runner import BoundProgram

__all__ = ["CROSSINGS", "MOMENTS", "Trap"]

CROSSINGS = {"prefill": ("prefill", 4), "step": ("decode step 2", 6)}
"""What a chip is about, and the number of the crossing in it, for moments inside a program."""

MOMENTS = ("start", "set-up", "handover", "load", "prefill", "step", "report", "end")
"""In the order of a run."""


class Trap:
    """Calls ``act`` once, at a moment of this process.

    Parameters
    ----------
    moment : str
        One of `MOMENTS`.
    act : callable
        Called with the crossing that was about to happen, "start", or None; returns what the
        crossing is replaced with, None if it is to happen as it was.
    """

    def __init__(self, moment: str, act: Callable[[object], Callable[[], None] | None]) -> None:
        self._moment, self._act = moment, act
        self._about, self._number, self._is_open = "", 0, True

    def set(self) -> None:
        """Put the trap where the moment comes by."""
        if self._moment == "start":
            self._spring("start")
        elif self._moment == "set-up":
            self._before(planes.Planes, "__init__")
        elif self._moment == "handover":
            self._before(planes.Planes, "_files")
        elif self._moment == "load":
            self._before(engine, "load_chips")
        elif self._moment == "report":
            self._before(mpi.MpiTransport, "gather")
        elif self._moment == "end":
            self._before(mpi, "finalize")
        else:
            self._at_crossing()

    def _spring(self, crossing: object) -> Callable[[], None] | None:
        if not self._is_open:
            return None
        self._is_open = False
        return self._act(crossing)

    def _before(self, owner: object, name: str) -> None:
        then = getattr(owner, name)

        def trapped(*arguments: object, **options: object) -> object:
            self._spring(None)
            return then(*arguments, **options)

        setattr(owner, name, trapped)

    def _at_crossing(self) -> None:
        about, number = CROSSINGS[self._moment]
        begin, crossing_call = mpi.MpiTransport.begin, BoundProgram.crossing_call

        def trapped_begin(transport: mpi.MpiTransport, what: str) -> None:
            self._about, self._number = what, 0
            begin(transport, what)

        def trapped_call(program: BoundProgram, crossing: Crossing) -> Call:
            call, arguments = crossing_call(program, crossing)

            def trapped_cross() -> None:
                self._number += 1
                if self._about.startswith(about) and self._number >= number:
                    other = self._spring(crossing)
                    if other is not None:
                        other()
                        return
                call(*arguments)

            return trapped_cross, ()

        setattr(mpi.MpiTransport, "begin", trapped_begin)  # noqa: B010
        setattr(BoundProgram, "crossing_call", trapped_call)  # noqa: B010
