"""Schedules without a single message: who sends what to whom, and what arrives where."""

import pytest

from galaxy_mpi.ccl import TOPOLOGIES

SIZES = [1, 2, 3, 4, 5, 8]
BY_NAME = pytest.mark.parametrize("name", TOPOLOGIES)


@BY_NAME
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter"])
def test_every_send_has_its_receive_in_the_same_round(name, size, op):
    schedules = [getattr(TOPOLOGIES[name](size), op)(i) for i in range(size)]
    for number in range(len(schedules[0])):
        sent = {
            (i, hop.peer, hop.chunk, hop.lane)
            for i in range(size)
            for hop in schedules[i][number].sends
        }
        received = {
            (hop.peer, i, hop.chunk, hop.lane)
            for i in range(size)
            for hop in schedules[i][number].receives
        }
        if name == "line" and op == "all_gather":  # lanes do not matter to a gather
            sent = {s[:3] for s in sent}
            received = {r[:3] for r in received}
        assert sent == received


@BY_NAME
@pytest.mark.parametrize("size", SIZES)
def test_all_gather_sends_only_what_has_arrived_and_ends_with_everything(name, size):
    topology = TOPOLOGIES[name](size)
    have = [{i} for i in range(size)]
    for number in range(len(topology.all_gather(0))):
        for i in range(size):
            assert {h.chunk for h in topology.all_gather(i)[number].sends} <= have[i]
        for i in range(size):
            have[i] |= {h.chunk for h in topology.all_gather(i)[number].receives}
    assert all(chunks == set(range(size)) for chunks in have)


@BY_NAME
@pytest.mark.parametrize("size", SIZES)
def test_reduce_scatter_brings_every_term_to_its_owner_once(name, size):
    topology = TOPOLOGIES[name](size)
    # What a partial sum on its way contains: (chip, lane, chunk) -> terms.
    partial: dict[tuple[int, int, int], list[int]] = {}
    for number in range(len(topology.reduce_scatter(0))):
        moving = {}
        for i in range(size):
            for hop in topology.reduce_scatter(i)[number].sends:
                terms = [*partial.pop((i, hop.lane, hop.chunk), []), i]
                moving[hop.peer, hop.lane, hop.chunk] = terms
        partial |= moving
    for owner in range(size):
        terms = [t for (i, _, chunk), ts in partial.items() if i == chunk == owner for t in ts]
        assert sorted([*terms, owner]) == list(range(size))
    assert all(i == chunk for i, _, chunk in partial)


@pytest.mark.parametrize("size", SIZES)
def test_a_ring_and_a_line_use_only_wires_between_neighbours(size):
    for i in range(size):
        for op in ("all_gather", "reduce_scatter"):
            for round_ in getattr(TOPOLOGIES["ring"](size), op)(i):
                assert [hop.peer for hop in round_.sends] == [(i + 1) % size]
            for round_ in getattr(TOPOLOGIES["line"](size), op)(i):
                assert all(abs(hop.peer - i) == 1 for hop in round_.sends + round_.receives)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_wire_of_a_line_carries_at_most_one_chunk_a_round_and_direction(size):
    for op in ("all_gather", "reduce_scatter"):
        for i in range(size):
            for round_ in getattr(TOPOLOGIES["line"](size), op)(i):
                peers = [hop.peer for hop in round_.sends]
                assert len(peers) == len(set(peers))
