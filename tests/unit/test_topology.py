"""Schedules without a single message: who sends what to whom, and what arrives where."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi.ccl.topology import TOPOLOGIES, Line, Ring, routes

SIZES = st.integers(1, 40)
BY_NAME = pytest.mark.parametrize("name", TOPOLOGIES)


@BY_NAME
@given(size=SIZES)
@settings(deadline=None)
@pytest.mark.parametrize("op", ["all_gather", "all_gather_both_ways", "reduce_scatter"])
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
        if name == "line" and op != "reduce_scatter":  # lanes do not matter to a gather
            sent = {s[:3] for s in sent}
            received = {r[:3] for r in received}
        assert sent == received


@BY_NAME
@given(size=SIZES)
@settings(deadline=None)
@pytest.mark.parametrize("op", ["all_gather", "all_gather_both_ways"])
def test_all_gather_sends_only_what_has_arrived_and_ends_with_everything(name, size, op):
    gather = getattr(TOPOLOGIES[name](size), op)
    have = [{i} for i in range(size)]
    for number in range(len(gather(0))):
        for i in range(size):
            assert {h.chunk for h in gather(i)[number].sends} <= have[i]
        for i in range(size):
            new = [h.chunk for h in gather(i)[number].receives]
            # A ring brings nothing twice; nor does a line.
            assert len(set(new) - have[i]) == len(new)
            have[i] |= set(new)
    assert all(chunks == set(range(size)) for chunks in have)


@given(size=SIZES)
@settings(deadline=None)
def test_a_ring_both_ways_has_half_the_rounds_between_neighbours(size):
    for i in range(size):
        rounds = Ring(size).all_gather_both_ways(i)
        assert len(rounds) == size // 2
        for round_ in rounds:
            peers = [hop.peer for hop in round_.sends]
            assert len(peers) == len(set(peers))
            assert {(peer - i) % size for peer in peers} <= {1, size - 1}


@BY_NAME
@given(size=SIZES)
@settings(deadline=None)
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


@given(size=SIZES)
@settings(deadline=None)
def test_a_ring_and_a_line_use_only_wires_between_neighbours(size):
    for i in range(size):
        for op in ("all_gather", "reduce_scatter"):
            for round_ in getattr(TOPOLOGIES["ring"](size), op)(i):
                assert [hop.peer for hop in round_.sends] == [(i + 1) % size]
            for round_ in getattr(TOPOLOGIES["line"](size), op)(i):
                assert all(abs(hop.peer - i) == 1 for hop in round_.sends + round_.receives)


@given(size=SIZES)
@settings(deadline=None)
def test_a_wire_of_a_line_carries_at_most_one_chunk_a_round_and_direction(size):
    for op in ("all_gather", "reduce_scatter"):
        for i in range(size):
            for round_ in getattr(TOPOLOGIES["line"](size), op)(i):
                peers = [hop.peer for hop in round_.sends]
                assert len(peers) == len(set(peers))


@BY_NAME
@given(size=SIZES, data=st.data())
@settings(deadline=None)
def test_a_route_has_every_member_but_the_owner_once_and_ends_beside_it(name, size, data):
    owner = data.draw(st.integers(0, size - 1))
    lanes = routes(TOPOLOGIES[name](size), owner)
    assert sorted([owner, *(member for lane in lanes for member in lane)]) == list(range(size))
    for lane in lanes:
        steps = [(b - a) % size for a, b in zip(lane, (*lane[1:], owner), strict=True)]
        assert len(set(steps)) == 1
        assert steps[0] in (1, size - 1)


def test_a_ring_adds_behind_the_owner_first_and_a_line_from_both_ends():
    assert routes(Ring(5), 1) == [(2, 3, 4, 0)]
    assert routes(Line(5), 1) == [(0,), (4, 3, 2)]
    assert routes(Line(3), 0) == [(2, 1)]


@BY_NAME
@given(size=st.integers(2, 40))
@settings(deadline=None)
def test_what_a_member_sends_it_got_in_the_round_before_or_has_of_its_own(name, size):
    """So a box may be read for the last time in the round behind the one in which it came."""
    for i in range(size):
        came: set[tuple[int, int]] = set()
        for round_ in TOPOLOGIES[name](size).reduce_scatter(i):
            sent = {(hop.lane, hop.chunk) for hop in round_.sends}
            assert {hop for hop in came if hop[1] != i} <= sent
            came = {(hop.lane, hop.chunk) for hop in round_.receives}
