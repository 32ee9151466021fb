"""Requests of simulated traffic: when they arrive, how long they are, what their prompts are."""

import numpy as np
import pytest

from galaxy_mpi.serving.arrivals import Arrival, ClosedLoop, OpenLoop, Size, poisson, sizes
from galaxy_mpi.serving.lengths import Lengths
from galaxy_mpi.serving.load import Load
from galaxy_mpi.serving.prompts import Prompts


def test_arrivals_of_a_rate_are_poisson_and_seeded():
    requests = sizes(Lengths("number", 5), Lengths("number", 5), 20_000, seed=3)
    times = np.array([arrival.at_s for arrival in poisson(requests, 4.0, seed=3)])
    assert times[-1] / len(times) == pytest.approx(0.25, rel=0.02)
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)
    slower = [arrival.at_s for arrival in poisson(requests, 2.0, seed=3)]
    assert slower == pytest.approx(times * 2)
    assert next(a.at_s for a in poisson(requests, 4.0, seed=4)) != times[0]


def test_lengths_have_the_distribution_that_was_asked_for():
    rng = np.random.default_rng(0)
    drawn = Lengths.parse("x", "lognormal:500,0.8").draw(rng, 50_000)
    assert np.median(drawn) == pytest.approx(500, rel=0.02)
    assert np.log(drawn).std() == pytest.approx(0.8, rel=0.02)
    drawn = Lengths.parse("x", "uniform:10,20").draw(rng, 50_000)
    assert set(drawn.tolist()) == set(range(10, 21))
    assert drawn.mean() == pytest.approx(15, rel=0.01)


def test_a_longer_prefix_begins_like_a_shorter_one():
    prompts = Prompts(50_000, seed=0)
    short, long = (
        prompts.tokens(n, Size(n_tokens, 1, "x", n_tokens)) for n, n_tokens in ((0, 90), (1, 300))
    )
    assert long[:90] == short
    assert max(prompts.tokens(0, Size(5000, 1))) < 50_000


def test_prompts_beyond_the_context_are_cut_when_drawn():
    load = Load(rate=1.0, n_requests=3, inputs=Lengths("number", 605))
    source = load.source(600)
    assert source.take().size == Size(600, 128)


def test_a_client_of_a_closed_loop_sends_when_its_request_has_ended():
    source = ClosedLoop([Size(n, 1) for n in range(1, 5)], concurrency=2)
    assert [source.take().size.input_tokens for _ in range(2)] == [1, 2]
    assert source.next_s is None
    source.left(3.0)
    source.left(2.0)
    assert [source.take() for _ in range(2)] == [Arrival(2.0, Size(3, 1)), Arrival(3.0, Size(4, 1))]
    source.left(4.0)
    assert source.next_s is None


def test_an_open_loop_is_in_order_of_time():
    arrivals = [Arrival(at_s, Size(n, 1)) for n, at_s in enumerate((2.0, 1.0, 2.0, 0.5), 1)]
    source = OpenLoop(arrivals)
    taken = []
    while source.next_s is not None:
        assert source.next_s == (taken := [*taken, source.take()])[-1].at_s
    assert [arrival.size.input_tokens for arrival in taken] == [4, 2, 1, 3]
