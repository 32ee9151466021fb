"""The scheduling loop, shared by runs, estimates of runs and traffic.

Prefill stops decode: while a waiting request fits, its prefill is next. Otherwise all users that
hold a place take a decode step.
"""

from typing import Protocol

from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.scheduler import Scheduler

__all__ = ["AllAtOnce", "Arrivals", "Work", "take_turns"]


class Work(Protocol):
    """Executes passes and steps. Both end with `Scheduler.advance`."""

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Prefill the requests that `Scheduler.next_prefill` returned."""

    def decode(self, scheduler: Scheduler) -> None:
        """Run a decode step of all users that hold a place."""


class Arrivals(Protocol):
    """Adds requests to a scheduler over time."""

    def admit(self, scheduler: Scheduler) -> None:
        """Submit requests that have arrived, cancel those whose client has disconnected."""

    def wait(self) -> bool:
        """Wait for the next arrival; return False if there is none."""


class AllAtOnce:
    """No arrivals: the scheduler has all requests from the start."""

    def admit(self, scheduler: Scheduler) -> None:
        """Do nothing."""

    def wait(self) -> bool:
        """Return False."""
        return False


def take_turns(scheduler: Scheduler, work: Work, arrivals: Arrivals | None = None) -> None:
    """Prefill and decode until every request has ended and no more arrive.

    Parameters
    ----------
    scheduler : Scheduler
    work : Work
    arrivals : Arrivals, optional
        None: the scheduler has all requests already.
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
