"""Device time of whole runs, as sums of estimated passes and steps."""

from galaxy_mpi.systems import PassShape
from galaxy_mpi.timing import DeviceTimes, Estimator

__all__ = ["run_all", "run_one"]


def run_one(estimator: Estimator, input_tokens: int, new_tokens: int, users: int) -> DeviceTimes:
    """Return the times of prefilling one user and of decoding all users behind it."""
    times, cols = estimator.times(), estimator.programs.mesh.cols
    times.add_prefill(estimator.prefill(PassShape.of_prompt(input_tokens)), [0])
    for position in range(input_tokens, input_tokens + new_tokens):
        times.add_step(estimator.step([position] * cols), users)
    return times


def run_all(estimator: Estimator, input_tokens: int, new_tokens: int, users: int) -> DeviceTimes:
    """Return the times of a run of all users, prefilled as a run prefills them."""
    # Here, not above: most estimates need no engine.
    from galaxy_mpi.engine.request import CacheLimits
    from galaxy_mpi.engine.scheduler import Scheduler

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
    while not scheduler.is_done:
        while requests := scheduler.next_prefill():
            numbers = [request.number for request in requests]
            work = scheduler.prefill_pass(requests).shape
            times.add_prefill(estimator.prefill(work), numbers)
            scheduler.advance(dict.fromkeys(numbers, 0))
        numbers = [request.number for request in scheduler.active]
        times.add_step(estimator.step(scheduler.longest_positions()), len(numbers))
        scheduler.advance(dict.fromkeys(numbers, 0))
    return times
