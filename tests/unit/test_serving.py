"""Traffic on the device clock: what must hold for any requests, and what it must be equal to."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi.engine.request import CacheLimits, EndReason
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.serving.arrivals import Arrival, ClosedLoop, OpenLoop, Size
from galaxy_mpi.serving.figures import Slo
from galaxy_mpi.serving.lengths import Lengths
from galaxy_mpi.serving.load import Load
from galaxy_mpi.serving.prompts import Prompts
from galaxy_mpi.serving.service import Device, NoValues, Service
from galaxy_mpi.serving.traffic import Traffic
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems import PassShape

CONTEXT = 600


@cache
def what_if(**changes):
    asked = {
        "model": "llama3.2-1b",
        "layers": 1,
        "mesh": "2x2",
        "users": 4,
        "prefill": "all",
    } | changes
    return WhatIf(allow_over_budget=True, **asked)


def of_lengths(inputs, outputs):
    return {
        name: Lengths.parse(f"--{name}", str(text))
        for name, text in (("inputs", inputs), ("outputs", outputs))
    }


def traffic(load, *, slo=None, **changes):
    return Traffic(what_if=what_if(**changes), load=load, slo=slo or Slo())


class Watched(NoValues):
    """Notes what is computed."""

    def __init__(self):
        self.passes, self.tokens = [], {}

    def _note(self, requests):
        for request in requests:
            self.tokens[request.number] = self.tokens.get(request.number, 0) + 1

    def prefill(self, scheduler, requests):
        self.passes.append([request.number for request in requests])
        self._note(requests)
        super().prefill(scheduler, requests)

    def decode(self, scheduler):
        self._note(scheduler.active)
        super().decode(scheduler)


@st.composite
def traces(draw):
    """Return arrivals in bursts and lulls, some of a prefix, some given up."""
    times = st.floats(0, 0.2) | st.just(0.0) | st.just(0.05)
    prefixed = st.tuples(st.sampled_from("ab"), st.integers(1, 300))
    found = []
    for _ in range(draw(st.integers(1, 40))):
        prefix, shared = draw(st.just(("", 0)) | prefixed)
        size = Size(
            max(shared, draw(st.integers(1, 130) | st.integers(1, CONTEXT + 20))),
            draw(st.integers(1, 40) | st.integers(1, CONTEXT)),
            prefix,
            shared,
            draw(st.none() | st.floats(0, 0.3)),
        )
        found.append(Arrival(draw(times), size))
    return found


def serve(source, *, n_blocks=64, page_size=64, places=4, prefix_caching=True, factor=1.0):
    estimator = what_if().estimator
    device = Device(estimator, estimator.step_table, factor, factor)
    scheduler = Scheduler(
        [],
        places,
        2,
        CacheLimits(page_size=page_size, n_blocks=n_blocks, max_seq_len=CONTEXT),
        max_new_tokens=1,
        eos_tokens=(),
        prefix_caching=prefix_caching,
    )
    watched = Watched()
    service = Service(device, scheduler, source, Prompts(1000, seed=1), watched)
    service.play()
    return service, watched


@settings(max_examples=80, deadline=None)
@given(
    traces(),
    st.integers(1, 24),
    st.sampled_from([16, 64, 128]),
    st.sampled_from([2, 4, 32]),
    st.booleans(),
    st.booleans(),
)
def test_no_request_is_lost_reordered_or_served_twice(
    arrivals, n_blocks, page_size, places, prefix_caching, is_closed
):
    source = (
        ClosedLoop([arrival.size for arrival in arrivals], 6) if is_closed else OpenLoop(arrivals)
    )
    service, watched = serve(
        source,
        n_blocks=n_blocks,
        page_size=page_size,
        places=places,
        prefix_caching=prefix_caching,
    )
    served = service.served
    wanted = [a.size for a in arrivals] if is_closed else [
        a.size for a in sorted(arrivals, key=lambda a: a.at_s)
    ]  # fmt: skip
    assert [one.size for one in served] == wanted
    started = [number for numbers in watched.passes for number in numbers]
    assert started == sorted(set(started))  # in the order in which they came, each once
    most = min(CONTEXT, n_blocks * page_size)
    for one in served:
        n_tokens = min(one.size.output_tokens, most - one.size.input_tokens + 1)
        if one.size.input_tokens > most:
            assert one.ended is EndReason.REFUSED
        elif one.ended is EndReason.CANCELLED:
            assert one.end_s >= one.arrival_s + one.size.cancel_s
            assert one.output_tokens < n_tokens
        else:
            assert one.output_tokens == n_tokens
            is_short = n_tokens < one.size.output_tokens
            assert one.ended is (EndReason.CACHE_FULL if is_short else EndReason.LENGTH)
        assert one.output_tokens == watched.tokens.get(one.number, 0)
        moments = [one.arrival_s, one.start_s, one.first_token_s, one.end_s]
        known = [moment for moment in moments if moment is not None]
        assert known == sorted(known)
        assert (one.start_s is None) == (one.number not in started)
    for pool in service.scheduler.pools:
        assert pool.n_available == pool.n_blocks
    for one, other in pairwise(sorted((o for o in served if o.start_s is not None),
                                      key=lambda o: (o.place, o.start_s))):  # fmt: skip
        assert one.place != other.place or other.start_s >= one.end_s
    # Little's law: requests in the system, as the scheduler counts them, and their times.
    totals = service.totals
    inside = totals.waiting_s + totals.placed_s
    expected = sum(one.e2e_s for one in served if one.ended is not EndReason.REFUSED)
    assert inside == pytest.approx(expected, rel=1e-9, abs=1e-12)
    busy = sum(totals.busy_s.values())
    assert busy <= totals.end_s * (1 + 1e-12)
    assert sum(totals.passes_s) + sum(totals.steps_s) == pytest.approx(busy)


@pytest.mark.parametrize("rate", [0.5, 20, 100, 1e6])
def test_littles_law_at_every_load(rate):
    """Concurrency, rate and latency are figures of their own."""
    day = traffic(
        Load(rate=rate, n_requests=150, **of_lengths("lognormal:60,0.8", "lognormal:20,0.5"))
    ).day()
    found = day.figures
    assert found["completed"] == found["requests"] == 150
    in_system = found["requests_per_s"] * found["e2e_s"]["mean"]
    assert found["concurrency"] == pytest.approx(in_system, rel=0.01)
    queue = found["requests_per_s"] * found["queue_s"]["mean"]
    assert found["queue_length"]["mean"] == pytest.approx(queue, rel=0.01)


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("users", [32, 20, 5])
@pytest.mark.parametrize("input_tokens", [100, 700])
def test_a_closed_loop_is_what_is_estimated_of_all_users(system, users, input_tokens):
    asked = {"users": users, "system": system, "mesh": "2x4"}
    load = Load(concurrency=users, n_requests=users, **of_lengths(input_tokens, 41))
    day = traffic(load, **asked).day()
    estimate = what_if(input_tokens=input_tokens, new_tokens=40, **asked)
    times, totals = estimate.times(estimate.estimator), day.service.totals
    assert totals.steps_s == times.step_s
    assert totals.end_s == times.now_s
    first_token_s = {one.number: one.first_token_s for one in day.service.served}
    assert first_token_s == times.first_token_s
    expected = times.to_dict() | estimate.report["device"]
    assert day.figures["decode_tokens_per_s"] == pytest.approx(expected["tokens_per_s"])
    assert day.figures["ttft_s"]["mean"] == pytest.approx(expected["time_to_first_token_s"])
    assert day.figures["decode_step_s"] == pytest.approx(expected["decode_step_s"])
    # Bands too: all of a closed loop is as much slower as the device is.
    low, high = expected["decode_step_s_band"]
    assert day.bands["decode_step_s"] == pytest.approx([low, high], rel=1e-3)


def test_at_vanishing_load_a_request_takes_its_prefill_and_its_steps():
    load = Load(rate=0.01, n_requests=20, **of_lengths("uniform:1,500", 10))
    service = traffic(load).day().service
    estimator = what_if().estimator
    for one in service.served:
        n_tokens = one.size.input_tokens
        first_s = estimator.prefill(PassShape.of_prompt(n_tokens)).seconds
        assert one.queue_s == 0
        assert one.ttft_s == pytest.approx(first_s, rel=1e-9)
        steps = [estimator.step([n_tokens + n, -1]).seconds for n in range(9)]
        assert one.e2e_s == pytest.approx(first_s + sum(steps), rel=1e-9)


def test_throughput_at_saturation_is_that_of_full_steps():
    """All requests alike and there at once: 4 at a time prefilled, then stepped together."""
    load = Load(rate=1e9, n_requests=40, **of_lengths(100, 21))
    found = traffic(load).day().figures
    estimator = what_if().estimator
    steps_s = sum(estimator.step([100 + n] * 2).seconds for n in range(20))
    assert found["decode_tokens_per_s"] == pytest.approx(4 * 20 / steps_s)
    pass_s = estimator.prefill(PassShape.of_prompt(100)).seconds
    assert found["duration_s"] == pytest.approx(10 * (4 * pass_s + steps_s), rel=1e-6)
    assert found["users"]["max"] == 4
    assert found["tokens_per_s"] == pytest.approx(40 * 21 / found["duration_s"])


def test_a_prefix_is_computed_once():
    alike = [Arrival(float(n), Size(400, 2, "system prompt", 300)) for n in range(4)]
    other = [Arrival(9.0, Size(400, 2, "another", 300)), Arrival(10.0, Size(400, 2))]
    service, _ = serve(OpenLoop(alike + other))
    assert [one.cached_tokens for one in service.served] == [0, 256, 256, 256, 0, 0]
    without, _ = serve(OpenLoop(alike + other), prefix_caching=False)
    assert [one.cached_tokens for one in without.served] == [0] * 6


def test_who_gives_up_frees_its_place():
    """One place: the second has it as soon as the step ends in which the first gives up."""
    arrivals = [Arrival(0.0, Size(50, 500, cancel_s=0.02)), Arrival(0.001, Size(50, 3))]
    service, _ = serve(OpenLoop(arrivals), places=2, n_blocks=9, page_size=64)
    first, second = service.served
    assert first.ended is EndReason.CANCELLED
    assert 0 < first.output_tokens < 500
    longest_step_s = max(service.totals.steps_s)
    assert 0.02 <= first.end_s <= 0.02 + max(longest_step_s, *service.totals.passes_s)
    assert second.ended is EndReason.LENGTH
