"""The collectives of prefill: slabs, rings or lines, and what is left when the mode ends."""

import numpy as np
import pytest

from galaxy_mpi.ccl import BufferKey, Line, PrefillCCL, Ring
from galaxy_mpi.dtypes import BFP8
from galaxy_mpi.mesh import Axis, LoopbackWorld, Mesh
from tests.conftest import exact_operand


@pytest.mark.parametrize("scatter", [Ring, Line])
@pytest.mark.parametrize("gather", [Ring, Line])
@pytest.mark.parametrize("n_rows", [1, 31, 160, 2048, 4100])
def test_long_tensors_travel_in_slabs_and_come_out_whole(scatter, gather, n_rows):
    def play(transport):
        ccl = PrefillCCL(transport, scatter=scatter, gather=gather)
        mine = exact_operand(transport.rank, (3, n_rows, 20))
        total = ccl.all_reduce(mine[0], axis=Axis.COLS, dtype=BFP8, key=BufferKey.QKV)
        chunk = ccl.reduce_scatter(mine, axis=Axis.COLS, dtype=BFP8, key=BufferKey.FF1)
        blocks = ccl.all_gather(mine[0], axis=Axis.COLS, dtype=BFP8, key=BufferKey.SDPA)
        return total, chunk, blocks

    terms = [exact_operand(chip, (3, n_rows, 20)) for chip in range(3)]
    for chip, (total, chunk, blocks) in enumerate(LoopbackWorld(Mesh(1, 3)).run(play)):
        np.testing.assert_array_equal(total, sum(terms)[0])
        np.testing.assert_array_equal(chunk, sum(terms)[chip])
        np.testing.assert_array_equal(blocks, [term[0] for term in terms])


def test_the_buffers_of_prefill_do_not_grow_with_the_prompt():
    def play(transport):
        ccl = PrefillCCL(transport)
        sizes = []
        for n_rows in (2048, 4096, 9000):
            values = np.ones((n_rows, 32), np.float32)
            ccl.all_reduce(values, axis=Axis.COLS, dtype=BFP8, key=BufferKey.QKV)
            sizes.append(ccl.buffers.n_bytes)
        return sizes

    for first, second, third in LoopbackWorld(Mesh(1, 2)).run(play):
        assert 0 < first == second
        assert third < 2 * first  # and one more size, for the rest of 9000


def test_lines_and_rings_differ_only_in_the_order_of_sums():
    """LINE_RS changes who adds first, LINE_AG changes nothing."""
    values = np.random.default_rng(1).standard_normal((4, 64, 64)).astype(np.float32)

    def play_with(scatter, gather):
        def play(transport):
            ccl = PrefillCCL(transport, scatter=scatter, gather=gather)
            return ccl.all_reduce(
                values[transport.rank], axis=Axis.COLS, dtype=BFP8, key=BufferKey.WO
            ).tobytes()

        results = LoopbackWorld(Mesh(1, 4)).run(play)
        assert len(set(results)) == 1  # replicas are identical
        return results[0]

    ring, line = play_with(Ring, Ring), play_with(Line, Ring)
    assert ring == play_with(Ring, Line)
    assert ring != line
    total = values.sum(axis=0)
    for result in (ring, line):
        error = np.frombuffer(result, np.float32).reshape(total.shape) - total
        assert np.abs(error).max() < 0.1


def test_a_freed_mode_leaves_no_queue_behind():
    chips = LoopbackWorld(Mesh(2, 2))

    def play(transport):
        for _ in range(5):
            ccl = PrefillCCL(transport)
            for axis in Axis:
                ccl.all_reduce(
                    np.ones((64, 64), np.float32), axis=axis, dtype=BFP8, key=BufferKey.WO
                )
            ccl.free()

    chips.run(play)
    assert len(chips._queues) == 0
