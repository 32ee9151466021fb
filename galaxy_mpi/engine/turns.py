"""Whose turn it is: the one loop that runs, estimates of runs and traffic go through.

Prefill stops decode: as long as a waiting request finds a place and memory, a pass is next;
otherwise all who have a place take a step.
"""

from typing import Protocol

from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.scheduler import Scheduler

__all__ = ["AllAtOnce", "Arrivals", "Work", "take_turns"]


class Work(Protocol):
    """What passes and steps do; both give tokens with `Scheduler.advance`."""

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Run the pass of requests that `Scheduler.next_prefill` returned."""

    def decode(self, scheduler: Scheduler) -> None:
        """Run a step of all who have a place."""


class Arrivals(Protocol):
    """When requests come and go."""

    def admit(self, scheduler: Scheduler) -> None:
        """Submit what has come by now, cancel what was given up."""

    def wait(self) -> bool:
        """Let time pass until the next one comes; return False if none ever will."""


class AllAtOnce:
    """All requests are there from the beginning."""

    def admit(self, scheduler: Scheduler) -> None:
        """Do nothing."""

    def wait(self) -> bool:
        """Return False."""
        return False


def take_turns(scheduler: Scheduler, work: Work, arrivals: Arrivals | None = None) -> None:
    """Prefill and decode until every request has ended and no other comes.

    Parameters
    ----------
    scheduler : Scheduler
    work : Work
    arrivals : Arrivals, optional
        None: nobody comes beside those whom the scheduler knows.
    """
    arrivals = arrivals or AllAtOnce()
    while True:
        arrivals.admit(scheduler)
        if requests := scheduler.next_prefill():
            work.prefill(scheduler, requests)
        elif scheduler.n_active:
            work.decode(scheduler)
        elif not arrivals.wait():
            return
