"""What is told of a day of traffic: bands, goodput, utilisation, the cache."""

from dataclasses import replace

import pytest

from galaxy_mpi.serving.figures import Slo
from galaxy_mpi.serving.load import Load
from galaxy_mpi.serving.traffic import Traffic
from galaxy_mpi.systems import PassShape
from tests.unit.test_serving import of_lengths, traffic, what_if


def test_ends_of_bands_are_played_with_all_times_longer_or_shorter():
    load = Load(rate=1e9, n_requests=30, **of_lengths(100, 5))
    day = traffic(load).day()
    first, step = (each.margin for each in day.traffic.margins)
    middle, fast, slow = (d.totals.busy_s for d in (day.service, day.fast, day.slow))
    assert slow["prefill"] == pytest.approx(middle["prefill"] * (1 + first))
    assert fast["prefill"] == pytest.approx(middle["prefill"] / (1 + first))
    assert slow["decode"] == pytest.approx(middle["decode"] * (1 + step))
    for name in ("ttft_s", "e2e_s"):
        low, high = day.bands[name]["p99"]
        assert low < day.figures[name]["p99"] < high


def test_good_requests_are_those_in_time():
    load = Load(rate=300, n_requests=60, **of_lengths(64, "uniform:1,30"))
    served = traffic(load).day().service.served
    ttft = sorted(one.ttft_s for one in served)[29]
    tpot = sorted(one.tpot_s for one in served if one.tpot_s is not None)[29]
    for slo in (Slo(ttft_s=ttft), Slo(tpot_s=tpot), Slo(ttft_s=ttft, tpot_s=tpot)):
        found = traffic(load, slo=slo).day().figures
        good = [
            one
            for one in served
            if (slo.ttft_s is None or one.ttft_s <= slo.ttft_s)
            and (slo.tpot_s is None or one.tpot_s is None or one.tpot_s <= slo.tpot_s)
        ]
        assert 0 < len(good) < 60
        assert found["goodput_share"] == pytest.approx(len(good) / 60)
        assert found["goodput_requests_per_s"] == pytest.approx(len(good) / found["duration_s"])
    assert traffic(load).day().figures["goodput_share"] is None


def test_utilisation_of_one_request_is_what_its_steps_and_pass_did():
    load = Load(rate=1.0, n_requests=1, **of_lengths(100, 3))
    day = traffic(load, mesh="2x1", users=1).day()
    estimator, found = day.traffic.what_if.estimator, day.figures
    done = [
        estimator.prefill(PassShape.of_prompt(100)),
        estimator.step([100]),
        estimator.step([101]),
    ]
    machine = estimator.machine
    n_bytes = sum(timing.dram_bytes for timing in done)
    share = n_bytes / found["duration_s"] / machine.dram_bytes_per_s
    assert found["dram_utilization"] == pytest.approx(share)
    n_bytes = sum(timing.link_bytes["column"] for timing in done)
    share = n_bytes / found["duration_s"] / machine.link_bytes_per_s
    assert found["link_utilization"]["column"] == pytest.approx(share)


def test_the_cache_is_as_large_as_a_chip_has_memory_for():
    load = Load(rate=1.0, n_requests=1)
    large = Traffic(what_if=what_if(), load=load)
    assert large.limits.n_blocks == 2048
    asked = {"model": "llama3-8b", "layers": None, "mesh": "1x1", "machine": "n150", "users": 32}
    small = Traffic(what_if=what_if(**asked), load=load)
    # 32 layers of 8 heads of 128, keys and values, 34 bytes for 32 values.
    block_bytes = 64 * 32 * 8 * 128 * 2 * 34 / 32
    budget = replace(small.what_if, input_tokens=1, new_tokens=1).budget
    left = small.what_if.emulated_machine.dram_bytes - budget.weights_bytes - budget.embedding_bytes
    assert small.limits.n_blocks == left // block_bytes < 2048
