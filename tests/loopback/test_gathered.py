"""The collectives of tables: everything at once, added once, in the order of the members."""

import numpy as np
import pytest

from galaxy_mpi.ccl import (
    GatherAndAdd,
    GatheredAllReduce,
    GatheredBlocks,
    GatheredReduceScatter,
    Line,
    PlainAllReduce,
    Ring,
    ScatteredAllReduce,
    all_reduce_at_once,
)
from galaxy_mpi.dtypes import BFP8, FLOAT32
from tests.conftest import exact_operand
from tests.loopback.test_collectives import ANY_DTYPE, SIZES, on_a_row


@ANY_DTYPE
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(8, 48), (32, 32), (1, 5)])
def test_gathered_reduce_scatter_gives_the_same(dtype, size, shape):
    def play(group):
        scatter = GatheredReduceScatter(group, shape, dtype, num_links=1, label="test")
        return scatter(exact_operand(group.index, (size, *shape)))

    total = sum(exact_operand(chip, (size, *shape)) for chip in range(size))
    for chip, got in enumerate(on_a_row(size, play)[0]):
        np.testing.assert_array_equal(got, total[chip])


def gathered_all_reduce(group, topology, shape, dtype):
    """As decode has it, over a table; or over a schedule of hops."""
    common = {"num_links": 4, "label": "test"}
    if topology is None:
        return GatheredAllReduce(group, shape, dtype, **common)
    return GatherAndAdd(group, topology(group.size), shape, dtype, **common)


@pytest.mark.parametrize("topology", [None, Ring, Line])
@ANY_DTYPE
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(4, 64), (3, 50)])
def test_gathered_all_reduces_are_the_sum_on_everybody(topology, dtype, size, shape):
    def play(group):
        whole = gathered_all_reduce(group, topology, shape, dtype)
        parts = ScatteredAllReduce(group, shape, dtype, num_links=1, label="test")
        mine = exact_operand(group.index, shape)
        return [reduce(mine) for reduce in (whole, parts, parts)]

    total = sum(exact_operand(chip, shape) for chip in range(size))
    for results in on_a_row(size, play)[0]:
        for got in results:
            np.testing.assert_array_equal(got, total)


@ANY_DTYPE
@pytest.mark.parametrize("shape", [(32, 1024), (3, 7000), (32, 40), (1, 20000)])
def test_adding_parts_gives_the_bits_of_adding_everything(dtype, shape):
    """Whichever of the two is quicker for a shape."""

    def play(group):
        values = np.random.default_rng(group.index).standard_normal(shape).astype(np.float32)
        whole = gathered_all_reduce(group, None, shape, dtype)
        chosen = all_reduce_at_once(group, shape, dtype, num_links=4, label="test")
        return whole(values).tobytes() == chosen(values).tobytes(), type(chosen)

    found = on_a_row(8, play)[0]
    assert all(same for same, _ in found)
    large = shape != (32, 40)
    parts = PlainAllReduce if dtype is FLOAT32 else ScatteredAllReduce
    assert {kind for _, kind in found} == {parts if large else GatheredAllReduce}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_bytes", [1, 100, 9001])
def test_a_table_brings_every_block_to_everybody(size, n_bytes):
    def block(chip, turn):
        return np.random.default_rng(chip + 100 * turn).integers(0, 256, n_bytes).astype(np.uint8)

    def play(group):
        two = [GatheredBlocks(group, n_bytes, num_links=4, label="test") for _ in range(2)]
        got = [two[turn % 2](block(group.index, turn)).copy() for turn in range(5)]
        for gather in two:
            gather.free()
        return got

    for results in on_a_row(size, play)[0]:
        for turn, got in enumerate(results):
            np.testing.assert_array_equal(got, [block(chip, turn) for chip in range(size)])


@pytest.mark.parametrize("topology", [None, Ring, Line])
def test_the_decode_all_reduce_packs_terms_once_and_the_sum_once(topology):
    """With data that no order and no format represents exactly: the rounding is the point."""
    terms = [
        np.random.default_rng(c).standard_normal((32, 64)).astype(np.float32) for c in range(8)
    ]

    def play(group):
        reduce = gathered_all_reduce(group, topology, (32, 64), BFP8)
        return reduce(terms[group.index])

    total = np.zeros((32, 64), np.float32)
    for term in terms:
        total += BFP8.round(term)
    for got in on_a_row(8, play)[0]:
        assert got.tobytes() == BFP8.round(total).tobytes()
