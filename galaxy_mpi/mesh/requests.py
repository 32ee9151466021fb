"""Steps as persistent MPI requests, of an MPI that `galaxy_mpi.mesh.mpi` hands in."""

from collections.abc import Callable, Sequence
from typing import Any

from galaxy_mpi.mesh.transport import Message, Step, stripes
from galaxy_mpi.mesh.watchdog import Watchdog

__all__ = ["MpiExchange", "describe_wait"]


def describe_wait(
    here: tuple[int, int],
    peers: Sequence[tuple[int, int]],
    where: str,
    step: int,
    waited_s: float,
) -> str:
    """Return the line of a rank that waited in vain.

    Parameters
    ----------
    here : tuple of int
        (row, column) of the chip that waits.
    peers : sequence of tuple of int
        The chips it waits for.
    where : str
        The collective and its axis.
    step : int
        Of the collective.
    waited_s : float
    """
    return (
        f"chip {here} waited {waited_s:.0f} s for chip {' and '.join(map(str, peers))} "
        f"in {where}, step {step}; did that rank end or stop?"
    )


class MpiExchange:
    """Steps as persistent requests: started and waited for, never matched anew.

    Parameters
    ----------
    mpi : module
        ``mpi4py.MPI``.
    comm : mpi4py.MPI.Comm
        Of the group.
    watchdog : Watchdog
    steps : sequence of Step
    num_links : int
        Stripes of a message.
    number : int
        Of the exchange in its group, the same on all members.
    describe : callable
        Says, given a step and seconds, who waits for whom.
    """

    def __init__(
        self,
        mpi: Any,
        comm: Any,
        watchdog: Watchdog,
        steps: Sequence[Step],
        *,
        num_links: int,
        number: int,
        describe: Callable[[int, float], str],
    ) -> None:
        self._watchdog, self.describe = watchdog, describe
        self._start_all = mpi.Prequest.Startall
        self._wait_all = mpi.Request.Waitall

        def requests(make: Callable[..., Any], messages: Sequence[Message]) -> list[Any]:
            # A tag per exchange and link: a schedule that got out of step cannot be mistaken. The
            # note is a message of its own.
            return [
                make([piece, mpi.BYTE], message.peer, number * (num_links + 1) + link)
                for message in messages
                for link, piece in enumerate((message.note, *stripes(message.data, num_links)))
            ]

        self._sends = [requests(comm.Send_init, step.sends) for step in steps]
        self._receives = [requests(comm.Recv_init, step.receives) for step in steps]
        self._all_sends = [request for step in self._sends for request in step]
        self._all_receives = [request for step in self._receives for request in step]
        # Made here, not at every wait.
        self._tickets = [(self, step) for step in range(len(steps))]

    def begin(self) -> None:
        """Post the receives of all steps."""
        self._start_all(self._all_receives)

    def step(self, number: int) -> None:
        """Start this step's sends and wait for its receives."""
        self._start_all(self._sends[number])
        self._watchdog.waiting = self._tickets[number]
        self._wait_all(self._receives[number])
        self._watchdog.waiting = None

    def end(self) -> None:
        """Wait until all that was sent may be overwritten."""
        if self._tickets:
            self._watchdog.waiting = self._tickets[-1]
            self._wait_all(self._all_sends)
            self._watchdog.waiting = None

    def free(self) -> None:
        """Free the requests."""
        for request in (*self._all_sends, *self._all_receives):
            request.Free()
