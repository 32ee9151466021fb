"""Every collective as a program, with all chips of a mesh in this process.

Operands are small integers, so the sum of any number of terms is exact in every format and in any
order; where the rounding is the point, a few lines of numpy say what it must be.
"""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.ccl.algorithms import (
    COLLECTIVES,
    DIRECT,
    GALAXY_PREFILL,
    GENERIC_DECODE,
    GENERIC_PREFILL,
    LINE,
    RING,
    gather_and_add,
    is_small,
    scatter_over,
    scatter_terms,
)
from galaxy_mpi.ccl.topology import Line, Ring
from galaxy_mpi.ccl.wire import Index, Kind
from galaxy_mpi.dtypes import BF16, BFP4, BFP8, FLOAT32
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_plane import LocalPlane
from tests.collectives import bound_on, on_a_row, results, wire_of
from tests.conftest import exact_operand

SIZES = [1, 2, 3, 4, 8]
ANY_SIZE = pytest.mark.parametrize("size", SIZES)
ANY_WAY = pytest.mark.parametrize(
    "algorithms",
    [DIRECT, RING, LINE, GALAXY_PREFILL, GENERIC_DECODE],
    ids=lambda algorithms: algorithms.name,
)
ANY_DTYPE = pytest.mark.parametrize("dtype", [FLOAT32, BF16, BFP8], ids=lambda d: d.name)
SHAPES = pytest.mark.parametrize("shape", [(32, 64), (31, 16), (3, 50), (1, 5), (2, 3, 40)])


def columns(chunks: np.ndarray) -> np.ndarray:
    """Return chunks (size, ..., w) side by side."""
    return np.concatenate(list(chunks), axis=-1)


def noise(chip: int, *shape: int) -> np.ndarray:
    """Return values that no order and no format represents exactly."""
    return np.random.default_rng(chip).standard_normal(shape).astype(np.float32)


@ANY_WAY
@ANY_DTYPE
@ANY_SIZE
@SHAPES
def test_an_all_gather_brings_every_block_to_everybody(algorithms, dtype, size, shape):
    blocks = [exact_operand(chip, shape) for chip in range(size)]
    wire = wire_of(Kind.ALL_GATHER, dtype, shape)
    for got in on_a_row(size, lambda chip: algorithms.bind(chip, wire), blocks):
        np.testing.assert_array_equal(got, blocks)


@ANY_WAY
@ANY_SIZE
@pytest.mark.parametrize("n_bytes", [1, 2, 4])
def test_an_all_gather_of_token_numbers_keeps_them(algorithms, size, n_bytes):
    blocks = [np.array([[7 * chip + 1, chip]], f"u{n_bytes}") for chip in range(size)]
    wire = wire_of(Kind.ALL_GATHER, Index(n_bytes), (1, 2))
    for got in on_a_row(size, lambda chip: algorithms.bind(chip, wire), blocks):
        assert got.dtype == blocks[0].dtype
        np.testing.assert_array_equal(got, blocks)


@ANY_WAY
@ANY_DTYPE
@ANY_SIZE
@SHAPES
@pytest.mark.parametrize("by_rows", [True, False])
def test_a_reduce_scatter_gives_each_member_its_sum(algorithms, dtype, size, shape, by_rows):
    chunks = [exact_operand(chip, (size, *shape)) for chip in range(size)]
    terms = [np.concatenate(c) if by_rows else columns(c) for c in chunks]
    wire = wire_of(Kind.REDUCE_SCATTER, dtype, shape)
    got = on_a_row(size, lambda chip: algorithms.bind(chip, wire, by_rows=by_rows), terms)
    np.testing.assert_array_equal(got, sum(chunks))


@ANY_WAY
@ANY_DTYPE
@ANY_SIZE
@pytest.mark.parametrize(
    "shape", [(4, 64), (31, 20), (1, 5), (2, 3, 40), (30, 1024), (3, 7000), (1, 20000), (1100, 512)]
)
def test_an_all_reduce_is_the_sum_on_everybody(algorithms, dtype, size, shape):
    terms = [exact_operand(chip, shape) for chip in range(size)]
    wire = wire_of(Kind.ALL_REDUCE, dtype, shape)
    for got in on_a_row(size, lambda chip: algorithms.bind(chip, wire), terms):
        np.testing.assert_array_equal(got, sum(terms))


@pytest.mark.parametrize("axis", Axis)
@ANY_WAY
def test_both_axes_of_a_mesh_join_the_right_chips(algorithms, axis):
    mesh = Mesh(3, 2)
    terms = [np.full((1, 1), 2.0**rank, np.float32) for rank in range(6)]
    wire = wire_of(Kind.ALL_REDUCE, FLOAT32, (1, 1), axis)
    bound = bound_on(mesh, [lambda chip: algorithms.bind(chip, wire)], terms)
    bound.run()
    for rank, got in enumerate(results(bound, 0)):
        assert got[0, 0] == sum(2**member for member in mesh.group(rank, axis))


def hops(dtype, first, *rest):
    """Return a partial sum, rounded whenever it is sent on."""
    running = dtype.round(first)
    for term in rest:
        running = dtype.round(running + term)
    return running


@pytest.mark.parametrize("dtype", [FLOAT32, BF16, BFP8, BFP4], ids=lambda d: d.name)
@pytest.mark.parametrize("scatter", [scatter_over, scatter_terms])
@pytest.mark.parametrize("shape", [(32, 32), (7, 40)])
@pytest.mark.parametrize("make_topology", [Ring, Line])
def test_the_running_sum_is_rounded_at_every_hop(dtype, scatter, shape, make_topology):
    chunks = [noise(chip, 4, *shape) for chip in range(4)]
    wire, make = wire_of(Kind.REDUCE_SCATTER, dtype, shape), scatter(make_topology).make
    terms = [columns(c) for c in chunks]
    got = on_a_row(4, lambda chip: make(chip, wire, by_rows=False), terms)
    for owner in range(4):
        t = [chunks[chip][owner] for chip in range(4)]
        if make_topology is Ring:
            order = [(owner + k) % 4 for k in (1, 2, 3)]
            total = hops(dtype, *(t[chip] for chip in order)) + t[owner]
        else:
            total = t[owner]
            for side in (range(owner), range(3, owner, -1)):
                if side:
                    total = hops(dtype, *(t[chip] for chip in side)) + total
        assert got[owner].tobytes() == dtype.round(total).tobytes()


@pytest.mark.parametrize("way", ["table", Ring, Line])
@pytest.mark.parametrize("shape", [(32, 64), (5, 24), (32, 1024)])
def test_gathered_terms_are_packed_once_and_the_sum_once(way, shape):
    make = DIRECT.bind if way == "table" else gather_and_add(way).make
    terms = [noise(chip, *shape) for chip in range(8)]
    total = np.zeros(shape, np.float32)
    for term in terms:
        total += BFP8.round(term)
    wire = wire_of(Kind.ALL_REDUCE, BFP8, shape)
    for got in on_a_row(8, lambda chip: make(chip, wire), terms):
        assert got.tobytes() == BFP8.round(total).tobytes()


@pytest.mark.parametrize("dtype", [FLOAT32, BF16, BFP8, BFP4], ids=lambda d: d.name)
@ANY_SIZE
@pytest.mark.parametrize("shape", [(1, 512), (32, 64), (3, 50), (1, 5), (2, 3, 40)])
def test_on_a_ring_gathered_terms_give_the_bits_of_sums_that_are_passed_on(dtype, size, shape):
    by_hops = replace(RING, small=None)
    wire = wire_of(Kind.ALL_REDUCE, dtype, shape)
    found = [way.words(wire, LocalPlane(Mesh(1, size), Axis.ROW)) for way in (RING, by_hops)]
    assert found == ["ring of terms", "ring"]
    terms = [noise(chip, *shape) for chip in range(size)]
    found = [on_a_row(size, lambda c, w=way: w.bind(c, wire), terms) for way in (RING, by_hops)]
    assert [got.tobytes() for got in found[0]] == [got.tobytes() for got in found[1]]
    assert all(got.flags.c_contiguous for got in found[0])


@ANY_DTYPE
@ANY_SIZE
@pytest.mark.parametrize("by_rows", [True, False])
def test_so_do_gathered_terms_of_a_reduce_scatter(dtype, size, by_rows):
    shape = (7, 48)
    by_hops, wire = replace(RING, small=None), wire_of(Kind.REDUCE_SCATTER, dtype, shape)
    assert is_small(wire, shares_memory=True)
    whole = (7 * size, 48) if by_rows else (7, 48 * size)
    terms = [noise(chip, *whole) for chip in range(size)]
    found = [
        on_a_row(size, lambda c, w=way: w.bind(c, wire, by_rows=by_rows), terms)
        for way in (RING, by_hops)
    ]
    assert [got.tobytes() for got in found[0]] == [got.tobytes() for got in found[1]]


@ANY_DTYPE
@pytest.mark.parametrize("shape", [(32, 1024), (3, 7000), (1100, 512)])
def test_so_do_the_terms_of_which_an_all_reduce_in_shared_memory_adds_parts(dtype, shape):
    wire, by_hops = wire_of(Kind.ALL_REDUCE, dtype, shape), replace(RING, small=None)
    terms = [noise(chip, *shape) for chip in range(8)]
    found = [on_a_row(8, lambda c, w=way: w.bind(c, wire), terms) for way in (RING, by_hops)]
    assert [got.tobytes() for got in found[0]] == [got.tobytes() for got in found[1]]


@ANY_DTYPE
@pytest.mark.parametrize("shape", [(32, 1024), (3, 7000), (32, 40), (1, 20000), (1100, 512)])
def test_adding_parts_gives_the_bits_of_adding_everything(dtype, shape):
    terms = [noise(chip, *shape) for chip in range(8)]
    wire = wire_of(Kind.ALL_REDUCE, dtype, shape)
    whole = on_a_row(8, lambda chip: gather_and_add(Ring).make(chip, wire), terms)
    parts = on_a_row(8, lambda chip: DIRECT.bind(chip, wire), terms)
    assert [a.tobytes() for a in whole] == [b.tobytes() for b in parts]


@pytest.mark.parametrize("topology", COLLECTIVES)
def test_a_program_of_many_collectives_runs_again_and_again(topology):
    """Slots are taken in turns and outboxes written again: nothing of the run before is left."""
    shape, size = (4, 32), 4
    kinds = [Kind.ALL_REDUCE, Kind.ALL_GATHER, Kind.REDUCE_SCATTER, Kind.ALL_REDUCE] * 2
    wires = [wire_of(k, BFP8, (1, 32) if k is Kind.REDUCE_SCATTER else shape) for k in kinds]
    binds = [
        lambda chip, wire=wire: COLLECTIVES[topology].bind(chip, wire, by_rows=True)
        for wire in wires
    ]
    terms = [np.zeros(shape, np.float32) for _ in range(size)]
    bound = bound_on(Mesh(1, size), binds, terms, poisons=True)
    for turn in range(3):
        for chip, term in enumerate(terms):
            term[...] = exact_operand(10 * turn + chip, shape)
        bound.run()
        for number, kind in enumerate(kinds):
            for chip, got in enumerate(results(bound, number)):
                right = terms if kind is Kind.ALL_GATHER else sum(terms)
                right = sum(terms)[chip : chip + 1] if kind is Kind.REDUCE_SCATTER else right
                np.testing.assert_array_equal(got, right)


def test_a_chip_alone_takes_device_time_unless_its_system_skips_that():
    wire = wire_of(Kind.ALL_REDUCE, BFP8, (4, 32))
    for algorithms, takes_time in (
        (DIRECT, True),
        (RING, True),
        (GENERIC_DECODE, False),
        (GENERIC_PREFILL, False),
    ):
        assert algorithms.takes_time(wire, 1) is takes_time
        assert algorithms.takes_time(wire, 2)


def test_chips_that_cross_with_different_wires_are_told_when_they_bind():
    def bind(chip):
        shape = (4, 32) if chip.rank != 1 else (4, 48)
        return DIRECT.bind(chip, wire_of(Kind.ALL_REDUCE, FLOAT32, shape))

    with pytest.raises(
        CollectiveError, match=r"chip \(0, 1\).*\(4, 48\).*chip \(0, 0\).*\(4, 32\)"
    ):
        bound_on(Mesh(1, 2), [bind], [np.zeros((4, 32), np.float32)] * 2)
