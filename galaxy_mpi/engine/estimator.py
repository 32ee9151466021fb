"""Device time of a run without weights, values or ranks: all chips in one process."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from galaxy_mpi.device import MeshClock, Slowness, Trace
from galaxy_mpi.engine.device_program import DeviceProgram
from galaxy_mpi.engine.device_times import DeviceTimes, Timing
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.systems import PrefillPass, PrefillUser

__all__ = ["Estimator"]


class Estimator:
    """Device time of one model on one machine.

    Every pass and every step is timed from a common start of all chips, because sampling joins
    them. So its time is a function of what it does, and is kept for the next one that does the
    same.

    Parameters
    ----------
    program : DeviceProgram
    circular_buffer_bytes : float, optional
        Device bytes; the machine's by default.
    slowness : Slowness, optional
        Chips and links that are slower than they should be.

    Examples
    --------
    >>> from galaxy_mpi.device import Machine
    >>> from galaxy_mpi.mesh import Mesh
    >>> from galaxy_mpi.models.presets import PRESETS
    >>> from galaxy_mpi.systems import PRECISIONS
    >>> machine = Machine.load("wormhole_galaxy_6u")
    >>> model, precision = PRESETS["llama3-70b"], PRECISIONS["performance"]
    >>> program = DeviceProgram(model, machine, Mesh(8, 4), precision, users=32)
    >>> estimator = Estimator(program)
    >>> 0.013 < estimator.step([127] * 4).seconds < 0.015
    True
    """

    def __init__(
        self,
        program: DeviceProgram,
        *,
        circular_buffer_bytes: float | None = None,
        slowness: Slowness | None = None,
    ) -> None:
        self.program, self.sizes = program, program.sizes
        self._machine, self._mesh = program.machine, program.mesh
        self._capacity, self._slowness = circular_buffer_bytes, slowness
        self._known: dict[tuple[Any, ...], Timing] = {}

    def run(self, input_tokens: int, new_tokens: int) -> DeviceTimes:
        """Return the times of prefilling one user and of decoding all users behind it."""
        times = self.times()
        times.add_prefill(self.prefill(input_tokens), [0])
        for position in range(input_tokens, input_tokens + new_tokens):
            times.add_step(self.step([position] * self._mesh.cols), self.sizes.users)
        return times

    def run_all(self, input_tokens: int, new_tokens: int) -> DeviceTimes:
        """Return the times of a run of all users, prefilled as a run prefills them."""
        times, cols, users = self.times(), self._mesh.cols, self.sizes.users
        n_positions = input_tokens + new_tokens
        n_places = -(-users // cols) * cols
        limits = CacheLimits(page_size=64, n_blocks=n_places * n_positions, max_seq_len=n_positions)
        scheduler = Scheduler(
            [[0] * input_tokens for _ in range(users)],
            n_places,
            cols,
            limits,
            max_new_tokens=new_tokens + 1,
            eos_tokens=(),
            prefix_caching=False,
        )
        while not scheduler.is_done:
            while requests := scheduler.next_prefill():
                numbers = [request.number for request in requests]
                times.add_prefill(self.prefill_pass(scheduler.prefill_pass(requests)), numbers)
                scheduler.advance(dict.fromkeys(numbers, 0))
            numbers = [request.number for request in scheduler.active]
            times.add_step(self.step(scheduler.longest_positions()), len(numbers))
            scheduler.advance(dict.fromkeys(numbers, 0))
        return times

    def times(self) -> DeviceTimes:
        """Return the times of a run that has not begun."""
        return DeviceTimes(self.program.model.n_layers, self._machine.prefill_cores)

    def prefill(self, n_tokens: int) -> Timing:
        """Return the time of prefilling one user with nothing cached."""
        return self.prefill_pass(one_user(n_tokens))

    def prefill_pass(self, work: PrefillPass, trace: Trace | None = None) -> Timing:
        """Return the time of a pass; with a trace it is evaluated anew."""
        what = self.program.of_prefill(work)
        return self._timed(what, lambda clock: self.program.prefill(clock, work), trace)

    def step(self, positions: Sequence[int], trace: Trace | None = None) -> Timing:
        """Return the time of a decode step; with a trace it is evaluated anew.

        Parameters
        ----------
        positions : sequence of int
            The longest user's position in each column; -1 for a column without users.
        trace : Trace, optional
        """
        what = self.program.of_decode(positions)
        return self._timed(what, lambda clock: self.program.decode(clock, positions), trace)

    def _timed(
        self, what: tuple[Any, ...], play: Callable[[MeshClock], None], trace: Trace | None
    ) -> Timing:
        if trace is None and what in self._known:
            return self._known[what]
        clock = MeshClock(self._machine, self._mesh, self._capacity, self._slowness, trace)
        play(clock)
        self._known[what] = Timing.of(clock)
        return self._known[what]


def one_user(n_tokens: int) -> PrefillPass:
    """Return a pass of one prompt with nothing cached."""
    tokens, blocks = np.zeros(n_tokens, np.int64), np.zeros(1, np.int64)
    return PrefillPass((PrefillUser(tokens, 0, 0, blocks),))
