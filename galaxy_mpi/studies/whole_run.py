"""Device time of whole runs: sums of estimated passes and steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from galaxy_mpi.studies.prompts import chosen_passes, prompt_s
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.times import DeviceTimes

if TYPE_CHECKING:
    from galaxy_mpi.engine.request import Request
    from galaxy_mpi.engine.scheduler import Scheduler

__all__ = ["run_all", "run_one", "run_users"]


def run_one(
    estimator: Estimator,
    input_tokens: int,
    new_tokens: int,
    users: int,
    *,
    start: int = 0,
    chunk: int | None = None,
) -> DeviceTimes:
    """Return the times of prefilling one prompt and of decoding all users after it.

    Parameters
    ----------
    start : int
        Cached tokens of the prompt.
    chunk : int, optional
        Tokens per pass, if not all.
    """
    lengths = [input_tokens] * users
    return run_users(estimator, lengths, new_tokens, start=start, chunk=chunk)


def run_users(
    estimator: Estimator,
    lengths: Sequence[int],
    new_tokens: int,
    *,
    start: int = 0,
    chunk: int | None = None,
) -> DeviceTimes:
    """Return the times of users with different prompt lengths, assigned to columns in turn.

    Time to first token is the mean over prompts prefilled alone; decode steps are of all users.
    """
    times, cols = estimator.times(), estimator.programs.mesh.cols
    for number, length in enumerate(dict.fromkeys(lengths)):
        shapes = chosen_passes(estimator, length, start, chunk)
        times.add_prefill(prompt_s(estimator, shapes), [number])
    passes = list(dict.fromkeys(lengths))
    ends, before = {}, 0.0
    for number, length in enumerate(passes):
        ends[length] = times.first_token_s[number] - before
        before = times.first_token_s[number]
    times.first_token_s = {user: ends[length] for user, length in enumerate(lengths)}
    longest = [max(lengths[column::cols], default=-1) for column in range(cols)]
    for step in range(new_tokens):
        positions = [length + step if length >= 0 else -1 for length in longest]
        times.add_step(estimator.step(positions), len(lengths))
    return times


def run_all(estimator: Estimator, input_tokens: int, new_tokens: int, users: int) -> DeviceTimes:
    """Return the times of a run, with the prompts of all users prefilled as in a run."""
    # Imported here because most estimates need no engine.
    from galaxy_mpi.engine.request import CacheLimits
    from galaxy_mpi.engine.scheduler import Scheduler
    from galaxy_mpi.engine.turns import take_turns

    times, cols = estimator.times(), estimator.programs.mesh.cols
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
    take_turns(scheduler, _Timed(estimator, times))
    return times


class _Timed:
    """Passes and steps that take device time, and give no tokens but zeros."""

    def __init__(self, estimator: Estimator, times: DeviceTimes) -> None:
        self._estimator, self._times = estimator, times

    def prefill(self, scheduler: "Scheduler", requests: "list[Request]") -> None:
        numbers = [request.number for request in requests]
        work = scheduler.prefill_pass(requests).shape
        self._times.add_prefill(self._estimator.prefill(work), numbers)
        scheduler.advance(dict.fromkeys(numbers, 0))

    def decode(self, scheduler: "Scheduler") -> None:
        numbers = [request.number for request in scheduler.active]
        step = self._estimator.step(scheduler.longest_positions())
        self._times.add_step(step, len(numbers))
        scheduler.advance(dict.fromkeys(numbers, 0))
