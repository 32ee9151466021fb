"""The transports over real ranks: run with mpirun -n 2, 4, 8 and 32 (launch/test.sh).

Values are those of the loopback tests; what is shown here is that messages, shared memory and
bells carry them.
"""

import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from galaxy_mpi.ccl import (
    TOPOLOGIES,
    AllGather,
    AllReduce,
    BufferKey,
    DecodeCCL,
    PrefillCCL,
    ReduceScatter,
)
from galaxy_mpi.dtypes import BF16, BFP8
from galaxy_mpi.errors import ConfigError, MeshError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import TRANSPORTS, MpiTransport
from galaxy_mpi.mesh.watchdog import Watchdog
from tests.conftest import exact_operand

MESHES = {2: ["1x2", "2x1"], 4: ["2x2", "1x4"], 8: ["8x1", "2x4"], 32: ["8x4"]}

pytestmark = pytest.mark.mpi(min_size=2)


def meshes():
    size = MPI.COMM_WORLD.size
    return [Mesh.parse(text) for text in MESHES.get(size, [f"1x{size}"])]


@pytest.fixture(params=TRANSPORTS)
def kind(request):
    return request.param


def test_all_collectives_over_both_axes(kind):
    for mesh in meshes():
        with MpiTransport.connect(mesh, kind=kind) as transport:
            for axis in Axis:
                group, members = transport.group(axis), mesh.group(transport.rank, axis)
                for topology in TOPOLOGIES.values():
                    wires = topology(group.size)
                    gather = AllGather(group, wires, 9000, num_links=4, label="gather")
                    scatter = ReduceScatter(
                        group, wires, (32, 96), BFP8, num_links=3, label="scatter"
                    )
                    reduce = AllReduce(
                        group, wires, wires, (32, 96), BF16, num_links=1, label="reduce"
                    )
                    for turn in range(3):
                        blocks = gather(np.full(9000, transport.rank + turn, np.uint8))
                        assert blocks[:, ::1000].tolist() == [[m + turn] * 9 for m in members]
                        terms = [exact_operand(m + turn, (group.size, 32, 96)) for m in members]
                        got = scatter(terms[group.index])
                        np.testing.assert_array_equal(got, sum(terms)[group.index])
                        got = reduce(terms[group.index][0])
                        np.testing.assert_array_equal(got, sum(terms)[0])
                    for collective in (gather, scatter, reduce):
                        collective.free()


def test_fast_and_slow_ranks_never_overtake_the_double_buffers(kind):
    """Random pauses, many turns, two keys: a block read too late or too early would show."""
    mesh = meshes()[0]
    rng = np.random.default_rng(MPI.COMM_WORLD.rank)
    with MpiTransport.connect(mesh, kind=kind) as transport:
        ccl = DecodeCCL(transport)
        for turn in range(60):
            if rng.random() < 0.1:
                time.sleep(rng.random() * 0.003)
            for axis in Axis:
                members = mesh.group(transport.rank, axis)
                block = np.full(300, (7 * transport.rank + turn) % 256, np.uint8)
                blocks = ccl.all_gather_bytes(block, axis=axis, key=BufferKey.SAMPLING_INDICES)
                if rng.random() < 0.1:
                    time.sleep(rng.random() * 0.002)
                assert (blocks == [[(7 * m + turn) % 256] for m in members]).all()
                chunks = exact_operand(transport.rank + turn, (len(members), 32, 32))
                total = ccl.reduce_scatter(chunks, axis=axis, dtype=BFP8, key=BufferKey.GATE_UP)
                expected = sum(exact_operand(m + turn, chunks.shape) for m in members)
                np.testing.assert_array_equal(total, expected[mesh.index(transport.rank, axis)])
        ccl.free()


def test_transports_give_the_same_bits():
    mesh = meshes()[0]
    values = np.random.default_rng(MPI.COMM_WORLD.rank).standard_normal((32, 64))
    results = []
    for kind in TRANSPORTS:
        with MpiTransport.connect(mesh, kind=kind) as transport:
            ccl = DecodeCCL(transport)
            results.append(
                [
                    ccl.all_reduce(
                        values.astype(np.float32), axis=axis, dtype=BFP8, key=BufferKey.WO
                    ).tobytes()
                    for axis in Axis
                ]
            )
            ccl.free()
    assert results[0] == results[1] == results[2]


def test_modes_follow_each_other_in_the_same_memory(kind):
    """A fast rank is in the next mode while a slow one still reads what the last one brought."""
    mesh = meshes()[0]
    rng = np.random.default_rng(MPI.COMM_WORLD.rank)
    with MpiTransport.connect(mesh, kind=kind) as transport:
        for turn in range(12):
            ccl = PrefillCCL(transport) if turn % 2 else DecodeCCL(transport)
            for axis in Axis:
                members = mesh.group(transport.rank, axis)
                block = np.full(300, (7 * transport.rank + turn) % 256, np.uint8)
                blocks = ccl.all_gather_bytes(block, axis=axis, key=BufferKey.SAMPLING_INDICES)
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.003)
                assert (blocks == [[(7 * m + turn) % 256] for m in members]).all()
                mine = exact_operand(transport.rank + turn, (64, 32))
                total = ccl.all_reduce(mine, axis=axis, dtype=BFP8, key=BufferKey.WO)
                expected = sum(exact_operand(m + turn, mine.shape) for m in members)
                np.testing.assert_array_equal(total, expected)
            ccl.free()
            group = transport.group(Axis.COLS)
            assert group._memory is None or group._memory._used == 0


def test_set_up_values_and_errors_reach_every_rank():
    with MpiTransport.connect(meshes()[0]) as transport:
        assert transport.from_root(lambda: transport.rank + 3) == 3
        with pytest.raises(MeshError, match="'8 by 4'"):
            transport.from_root(lambda: Mesh.parse("8 by 4"))
        with pytest.raises(ConfigError, match="rank 1"):
            transport.agree(ConfigError("rank 1") if transport.rank == 1 else None)
        ranks = transport.gather(transport.rank)
        assert ranks == (list(range(transport.mesh.n_chips)) if transport.rank == 0 else None)


def test_only_the_main_thread_may_call_mpi():
    assert MPI.Query_thread() >= MPI.THREAD_FUNNELED


def test_an_unknown_transport_is_refused():
    with pytest.raises(ConfigError, match="no transport 'tcp'; choose auto, mpi, shared"):
        MpiTransport(meshes()[0], kind="tcp")


def test_shared_memory_has_no_name_to_leave_behind():
    with MpiTransport.connect(meshes()[0], kind="shared") as transport:
        DecodeCCL(transport).all_gather_bytes(
            np.zeros(5000, np.uint8), axis=Axis.COLS, key=BufferKey.SAMPLING_INDICES
        )
        maps = Path("/proc/self/maps").read_text().splitlines()
        ours = [line.split(maxsplit=5)[-1] for line in maps if "memfd:galaxy_mpi" in line]
        assert set(ours) == {"/memfd:galaxy_mpi (deleted)"}


def test_a_wait_without_end_is_ended_by_the_watchdog_with_both_names():
    """Rank 0 waits for a neighbour that never sends; the others do nothing."""
    mesh = meshes()[-1]
    with MpiTransport.connect(mesh, kind="mpi") as transport:
        axis = max(Axis, key=mesh.size)
        gather = AllGather(
            transport.group(axis),
            TOPOLOGIES["ring"](mesh.size(axis)),
            8,
            num_links=1,
            label="lonely",
        )
        said = []
        watchdog = Watchdog(timeout_s=0.2, expired=said.append)
        watchdog.doing = "decode step 7"
        if transport.rank == 0:
            watchdog.waiting = (gather._exchange, 0)
            time.sleep(1.0)
            watchdog.waiting = None
            assert len(said) == 1
            assert said[0].startswith("decode step 7: chip (0, 0) waited")
            assert "in lonely" in said[0]
        watchdog.close()
        transport.gather(None)
        gather.free()
