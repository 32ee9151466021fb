"""Long tensors in slabs of rows: they come out whole, through memory that does not grow."""

import itertools

import numpy as np
import pytest

from galaxy_mpi.ccl.algorithms import GALAXY_PREFILL, LINE, RING
from galaxy_mpi.ccl.slabs import SLAB_ROWS, slabs_of
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import BFP8, FLOAT32
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_plane import LocalPlane
from tests.collectives import on_a_row, wire_of
from tests.conftest import exact_operand

LONG = [1, 31, 2048, 2049, 4100]


@pytest.mark.parametrize("algorithms", [GALAXY_PREFILL, RING, LINE], ids=lambda a: a.name)
@pytest.mark.parametrize("dtype", [FLOAT32, BFP8], ids=lambda d: d.name)
@pytest.mark.parametrize("n_rows", LONG)
def test_long_tensors_come_out_whole(algorithms, dtype, n_rows):
    chunks = [exact_operand(chip, (3, n_rows, 20)) for chip in range(3)]
    total, sent = sum(chunks), (n_rows, 20)

    def run(kind, terms, *, by_rows=False):
        wire = wire_of(kind, dtype, sent)
        return on_a_row(3, lambda chip: algorithms.bind(chip, wire, by_rows=by_rows), terms)

    first = [chunk[0] for chunk in chunks]
    for got in run(Kind.ALL_REDUCE, first):
        np.testing.assert_array_equal(got, total[0])
    for got in run(Kind.ALL_GATHER, first):
        np.testing.assert_array_equal(got, first)
    side_by_side = [np.concatenate(list(chunk), axis=1) for chunk in chunks]
    np.testing.assert_array_equal(run(Kind.REDUCE_SCATTER, side_by_side), total)
    below = [chunk.reshape(-1, 20) for chunk in chunks]
    np.testing.assert_array_equal(run(Kind.REDUCE_SCATTER, below, by_rows=True), total)


@pytest.mark.parametrize("kind", Kind)
def test_the_memory_that_chips_share_does_not_grow_with_the_prompt(kind, monkeypatch):
    asked: list[int] = []
    slot = LocalPlane._slot

    def noted(plane, group, number, n_bytes):
        asked.append(n_bytes)
        return slot(plane, group, number, n_bytes)

    monkeypatch.setattr(LocalPlane, "_slot", noted)
    most = []
    for n_rows in (SLAB_ROWS, 2 * SLAB_ROWS, 9000):
        asked.clear()
        wire = wire_of(kind, BFP8, (n_rows, 32))
        width = 64 if kind is Kind.REDUCE_SCATTER else 32
        on_a_row(
            2, lambda c, w=wire: GALAXY_PREFILL.bind(c, w), [np.ones((n_rows, width), "f4")] * 2
        )
        most.append(max(asked))
    assert 0 < most[0] == most[1] == most[2]


@pytest.mark.parametrize(
    ("pieces", "slabs"),
    [
        ([], [(0, 2048), (2048, 4096), (4096, 4100)]),
        ([1000, 1000, 500, 1600], [(0, 2000), (2000, 2500), (2500, 4100)]),
        ([2048, 2048, 4], [(0, 2048), (2048, 4096), (4096, 4100)]),
        ([10, 2040, 2040, 10], [(0, 10), (10, 2050), (2050, 4090), (4090, 4100)]),
    ],
)
def test_rows_that_belong_together_are_not_cut(pieces, slabs):
    ends = np.cumsum([0, *pieces]).tolist()
    wire = wire_of(Kind.ALL_GATHER, FLOAT32, (4100, 2))
    cut = slabs_of(
        None,
        wire,
        lambda builder, wire, **_: wire.sent,
        pieces=[slice(a, b) for a, b in itertools.pairwise(ends)],
    )
    assert list(cut) == [(slice(a, b), (b - a, 2)) for a, b in slabs]


@pytest.mark.parametrize("n_rows", LONG)
def test_an_op_may_use_rows_as_they_come(n_rows):
    blocks = [exact_operand(chip, (n_rows, 20)) for chip in range(2)]
    wire = wire_of(Kind.ALL_GATHER, BFP8, (n_rows, 20))
    seen: list[slice] = []

    class Multiplied:
        """Gathers slab by slab and adds up what came of each."""

        def __init__(self, chip):
            self._chip, self.term = chip, chip.array(n_rows, 20)

        def cross(self):
            out = self._chip.array(n_rows, 20)
            for rows, bound in GALAXY_PREFILL.slabs(self._chip, wire):
                seen.append(rows)
                self._chip.call(np.copyto, bound.term, self.term[rows])
                gathered = bound.cross()
                self._chip.call(np.add, gathered[0], gathered[1], out[rows])
            return out

    for got in on_a_row(2, Multiplied, blocks):
        np.testing.assert_array_equal(got, sum(blocks))
    assert max(rows.stop - rows.start for rows in seen) <= SLAB_ROWS
    assert len(seen) == 2 * -(-n_rows // SLAB_ROWS)


def test_lines_and_rings_differ_only_in_the_order_of_sums():
    """LINE_RS changes who adds first, LINE_AG changes nothing."""
    terms = [
        np.random.default_rng(chip).standard_normal((64, 64)).astype(np.float32)
        for chip in range(4)
    ]
    wire = wire_of(Kind.ALL_REDUCE, BFP8, (64, 64))

    def bits(**lines):
        algorithms = GALAXY_PREFILL.with_lines(**lines)
        results = on_a_row(4, lambda chip: algorithms.bind(chip, wire), terms)
        assert len({got.tobytes() for got in results}) == 1  # replicas are identical
        return results[0]

    ring = bits(scatter=False, gather=False)
    assert ring.tobytes() == bits(scatter=False, gather=True).tobytes()
    line = bits(scatter=True, gather=False)
    assert ring.tobytes() != line.tobytes()
    for got in (ring, line):
        assert np.abs(got - sum(terms)).max() < 0.1


def test_a_plane_is_asked_along_its_own_axis():
    assert [LocalPlane(Mesh(3, 2), axis).size for axis in Axis] == [3, 2]
