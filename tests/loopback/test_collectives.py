"""Collectives with all chips in one process: values, messages, buffers.

Operands are small integers, so the sum of any number of terms is exact in float32 and in packed
bfloat8_b, in any order.
"""

import numpy as np
import pytest

from galaxy_mpi.ccl import (
    TOPOLOGIES,
    AllGather,
    AllReduce,
    BufferKey,
    DecodeCCL,
    Line,
    ReduceScatter,
    Ring,
)
from galaxy_mpi.dtypes import BF16, BFP8, FLOAT32
from galaxy_mpi.errors import CollectiveError, ConfigError
from galaxy_mpi.mesh import Axis, LoopbackWorld, Mesh
from tests.conftest import exact_operand

SIZES = [1, 2, 3, 4, 8]
ANY_TOPOLOGY = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
ANY_DTYPE = pytest.mark.parametrize("dtype", [FLOAT32, BF16, BFP8], ids=lambda d: d.name)


def on_a_row(size, play, **world):
    """Run ``play(group)`` on every chip of a 1 x size mesh; return results and the world."""
    chips = LoopbackWorld(Mesh(1, size), **world)
    return chips.run(lambda transport: play(transport.group(Axis.COLS))), chips


@ANY_TOPOLOGY
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_bytes", [1, 100, 9001])
def test_all_gather_brings_every_block_to_everybody(topology, size, n_bytes):
    def block(chip):
        return np.random.default_rng(chip).integers(0, 256, n_bytes).astype(np.uint8)

    def play(group):
        gather = AllGather(group, topology(size), n_bytes, num_links=4, label="test")
        for _ in range(3):
            got = gather(block(group.index)).copy()
        gather.free()
        return got

    for got in on_a_row(size, play)[0]:
        np.testing.assert_array_equal(got, [block(chip) for chip in range(size)])


@ANY_TOPOLOGY
@ANY_DTYPE
@pytest.mark.parametrize("size", SIZES)
def test_reduce_scatter_gives_each_member_its_sum(topology, dtype, size):
    shape = (8, 48)

    def play(group):
        scatter = ReduceScatter(group, topology(size), shape, dtype, num_links=2, label="test")
        return [scatter(exact_operand(group.index, (size, *shape))) for _ in range(2)]

    total = sum(exact_operand(chip, (size, *shape)) for chip in range(size))
    for chip, results in enumerate(on_a_row(size, play)[0]):
        for got in results:
            np.testing.assert_array_equal(got, total[chip])


@ANY_TOPOLOGY
@ANY_DTYPE
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(4, 64), (3, 50)])
def test_all_reduce_is_the_sum_on_everybody(topology, dtype, size, shape):
    def play(group):
        wires = [topology(size)] * 2
        reduce = AllReduce(group, *wires, shape, dtype, num_links=4, label="test")
        reduce(np.ones(shape, np.float32))
        return reduce(exact_operand(group.index, shape))

    total = sum(exact_operand(chip, shape) for chip in range(size))
    for got in on_a_row(size, play)[0]:
        np.testing.assert_array_equal(got, total)


def test_the_ring_reduce_scatter_packs_the_running_sum_at_every_hop():
    terms = [
        np.random.default_rng(c).standard_normal((4, 32, 32)).astype(np.float32) for c in range(4)
    ]

    def play(group):
        scatter = ReduceScatter(group, Ring(4), (32, 32), BFP8, num_links=1, label="test")
        return scatter(terms[group.index])

    for chip, got in enumerate(on_a_row(4, play)[0]):
        running = terms[(chip + 1) % 4][chip]
        for hop in (2, 3, 4):
            running = BFP8.round(running) + terms[(chip + hop) % 4][chip]
        assert got.tobytes() == BFP8.round(running).tobytes()


@pytest.mark.parametrize(
    ("topology", "messages_per_chip", "bytes_per_chip"),
    [(Ring, [3, 3, 3, 3], 3), (Line, [1, 5, 5, 1], None)],
)
def test_who_sends_how_much(topology, messages_per_chip, bytes_per_chip):
    def play(group):
        AllGather(group, topology(4), 1000, num_links=4, label="test")(np.zeros(1000, np.uint8))

    sent = on_a_row(4, play, record=True)[1].sent
    assert [sum(s.source == chip for s in sent) for chip in range(4)] == messages_per_chip
    for chip in range(4):
        mine = [s for s in sent if s.source == chip]
        if bytes_per_chip:
            assert sum(s.n_bytes for s in mine) == 1000 * bytes_per_chip
        if topology is Ring:
            assert {s.target for s in mine} == {(chip + 1) % 4}


def test_a_large_message_is_striped_over_the_links_and_a_small_one_is_not():
    def play(group):
        AllGather(group, Ring(2), 16_384, num_links=4, label="large")(np.zeros(16_384, np.uint8))
        AllGather(group, Ring(2), 2048, num_links=4, label="small")(np.zeros(2048, np.uint8))

    sent = on_a_row(2, play, record=True)[1].sent
    large = sorted((s.link, s.n_bytes) for s in sent if s.label == "large" and s.source == 0)
    assert large == [(link, 4096) for link in range(4)]
    assert [s.n_bytes for s in sent if s.label == "small" and s.source == 0] == [2048]


def test_results_do_not_depend_on_the_number_of_links():
    values = np.random.default_rng(0).standard_normal((32, 512)).astype(np.float32)

    def play_with(num_links):
        def play(group):
            scatter = ReduceScatter(
                group, Ring(4), (32, 128), BF16, num_links=num_links, label="test"
            )
            return scatter(np.stack(np.split(values * (group.index + 1), 4, axis=1))).tobytes()

        return on_a_row(4, play)[0]

    assert play_with(1) == play_with(3) == play_with(4)


def test_buffers_are_double_and_the_index_of_an_axis_goes_0_1_0_1():
    def play(transport):
        ccl = DecodeCCL(transport)
        block = np.arange(4, dtype=np.uint8) + transport.rank
        results, indices = [], []
        for _ in range(4):
            indices.append(ccl.buffers.index[Axis.COLS])
            results.append(
                ccl.all_gather_bytes(block, axis=Axis.COLS, key=BufferKey.SAMPLING_INDICES)
            )
        assert ccl.buffers.index[Axis.ROWS] == 0
        addresses = [r.ctypes.data for r in results]
        assert addresses[0] == addresses[2] != addresses[1] == addresses[3]
        assert len(ccl.buffers._kept) == 2
        ccl.all_gather_bytes(block, axis=Axis.COLS, key=BufferKey.SAMPLING_INDICES)
        assert ccl.buffers.index[Axis.COLS] == 1
        ccl.free()  # the mode is switched
        assert ccl.buffers.index == {Axis.ROWS: 0, Axis.COLS: 0}
        assert ccl.buffers.n_bytes == 0
        return indices

    assert LoopbackWorld(Mesh(2, 2)).run(play) == [[0, 1, 0, 1]] * 4


def test_both_axes_of_a_mesh_join_the_right_chips():
    def play(transport):
        ccl = DecodeCCL(transport)
        value = np.full((1, 1), 2.0**transport.rank, np.float32)
        return [
            int(ccl.all_reduce(value, axis=axis, dtype=FLOAT32, key=BufferKey.WO)[0, 0])
            for axis in Axis
        ]

    mesh = Mesh(3, 2)
    for rank, sums in enumerate(LoopbackWorld(mesh).run(play)):
        assert sums == [sum(2**member for member in mesh.group(rank, axis)) for axis in Axis]


def test_a_chip_that_fails_ends_the_others_and_its_error_is_the_one_raised():
    def play(transport):
        if transport.rank == 2:
            raise RuntimeError("chip 2 broke")
        AllGather(transport.group(Axis.COLS), Ring(4), 8, num_links=1, label="test")(
            np.zeros(8, np.uint8)
        )

    with pytest.raises(RuntimeError, match="chip 2 broke"):
        LoopbackWorld(Mesh(1, 4)).run(play)


def test_a_chip_that_never_comes_is_named():
    def play(transport):
        if transport.rank == 0:
            AllGather(transport.group(Axis.COLS), Ring(2), 8, num_links=1, label="lonely")(
                np.zeros(8, np.uint8)
            )

    with pytest.raises(CollectiveError, match=r"chip \(0, 0\) waited .* chip \(0, 1\) in lonely"):
        LoopbackWorld(Mesh(1, 2), timeout_s=0.5).run(play)


def test_an_error_of_any_chip_is_agreed_on_by_all():
    def play(transport):
        try:
            transport.agree(ConfigError("bad shard") if transport.rank == 1 else None)
        except ConfigError as error:
            return str(error)
        return None

    assert LoopbackWorld(Mesh(2, 2)).run(play) == ["bad shard"] * 4


def test_what_the_root_computes_reaches_all_and_so_does_an_error_of_the_user():
    def fail():
        raise ConfigError("no such model")

    def play(transport):
        value = transport.from_root(lambda: transport.rank + 40)
        try:
            transport.from_root(fail)
        except ConfigError:
            return value
        return None

    assert LoopbackWorld(Mesh(2, 2)).run(play) == [40] * 4
