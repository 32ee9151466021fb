"""The transport over real ranks: set-up, ends, and ranks that disagree.

That planes carry what programs send is shown in `tests.mpi.test_collectives`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from galaxy_mpi.ccl.algorithms import DIRECT
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import BFP8, FLOAT32
from galaxy_mpi.errors import CollectiveError, ConfigError, MeshError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.mesh.transport import TRANSPORTS
from galaxy_mpi.program import Binder, bind_program
from tests.collectives import program_of, wire_of
from tests.collectives import results as results_of

MESHES = {2: ["1x2", "2x1"], 4: ["2x2", "1x4"], 8: ["8x1", "2x4"], 32: ["8x4"]}
SIZE = MPI.COMM_WORLD.size
MESH = Mesh.parse(MESHES.get(SIZE, [f"1x{SIZE}"])[0])

pytestmark = pytest.mark.mpi(min_size=2)


def bound_on(transport, wire, way=DIRECT):
    """Return the arrays and the bound program of one collective on this process's chips."""
    planes = {axis: transport.plane(axis) for axis in Axis}
    chips = [Binder(transport.mesh, chip, planes, None) for chip in transport.chips]
    values = [np.zeros(wire.sent, np.float32) for _ in chips]
    program = program_of([lambda chip: way.bind(chip, wire)], wire.sent)
    return values, bind_program(program, chips, [{"values": v} for v in values], planes)


@pytest.mark.skipif(SIZE == 32, reason="shown by fewer ranks as well")
def test_transports_give_the_same_bits():
    noise = np.random.default_rng(MPI.COMM_WORLD.rank).standard_normal((32, 64))
    results = []
    for kind in TRANSPORTS:
        with MpiTransport.connect(MESH, kind=kind) as transport:
            for axis in Axis:
                wire = wire_of(Kind.ALL_REDUCE, BFP8, (32, 64), axis)
                (values,), bound = bound_on(transport, wire)
                values[...] = noise
                bound.run()
                results.append(results_of(bound, 0)[0].tobytes())
                bound.free()
    assert results[0:2] == results[2:4] == results[4:6]


def test_set_up_values_and_errors_reach_every_rank():
    with MpiTransport.connect(MESH) as transport:
        assert transport.from_root(lambda: transport.rank + 3) == 3
        with pytest.raises(MeshError, match="'8 by 4'"):
            transport.from_root(lambda: Mesh.parse("8 by 4"))
        with pytest.raises(ConfigError, match="rank 1"):
            transport.agree(ConfigError("rank 1") if transport.rank == 1 else None)
        ranks = transport.gather(transport.rank)
        assert ranks == (list(range(transport.n_ranks)) if transport.rank == 0 else None)


def test_only_the_main_thread_may_call_mpi():
    assert MPI.Query_thread() >= MPI.THREAD_FUNNELED


def test_an_unknown_transport_is_refused():
    with pytest.raises(ConfigError, match="no transport 'tcp'; choose auto, mpi, shared"):
        MpiTransport(MESH, kind="tcp")


def test_chips_are_dealt_out_in_blocks_and_must_divide():
    twice = Mesh(SIZE, 2)
    with MpiTransport.connect(twice, chips_per_rank=2) as transport:
        assert transport.chips == (2 * transport.rank, 2 * transport.rank + 1)
        assert (transport.n_ranks, transport.plane(Axis.ROW).size) == (SIZE, 2)
    with pytest.raises(MeshError, match="cannot be divided into ranks of 3"):
        MpiTransport(twice if SIZE % 3 else Mesh(SIZE, 5), chips_per_rank=3)


def test_shared_memory_has_no_name_to_leave_behind():
    with MpiTransport.connect(MESH, kind="shared"):
        maps = Path("/proc/self/maps").read_text().splitlines()
        ours = {line.split(maxsplit=5)[-1] for line in maps if "memfd:" in line}
        assert ours
        assert all(name.endswith("(deleted)") for name in ours)
        assert not [line for line in maps if "/dev/shm/galaxy" in line]


@pytest.mark.parametrize("kind", ["shared", "mpi"], ids=["memory", "messages"])
def test_a_rank_that_crosses_with_another_wire_is_named_with_both(kind):
    """Whoever compares sees both wires; all ranks of the group do, or are ended by those."""
    with MpiTransport.connect(MESH, kind=kind) as transport:
        axis = max(Axis, key=MESH.size)
        odd = MPI.COMM_WORLD.rank == SIZE - 1
        wire = wire_of(Kind.ALL_GATHER, FLOAT32, (4, 16) if odd else (2, 32), axis)
        _, bound = bound_on(transport, wire)
        if SIZE - 1 in MESH.group(transport.rank, axis):
            with pytest.raises(CollectiveError) as caught:
                bound.run()
            assert "(4, 16)" in str(caught.value)
            assert "(2, 32)" in str(caught.value)
            assert f"chip {MESH.coord(SIZE - 1)}" in str(caught.value)
        transport.gather(None)
        bound.free()


LONELY = """
import sys
from mpi4py import MPI
import numpy as np
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.mesh.plane import Label
with MpiTransport.connect(Mesh(1, 2), kind=sys.argv[1], timeout_s=1) as transport:
    plane = transport.plane(Axis.ROW)
    plane.begin()
    table = plane.table(transport.rank, Label(7, "lonely"), 64, in_parts=False)
    plane.end()
    transport.begin("decode step 7")
    if transport.rank == 0:
        table.crossing()
    else:
        import time
        time.sleep(100)
"""


@pytest.mark.skipif(SIZE != 2, reason="starts ranks of its own")
@pytest.mark.parametrize("kind", ["shared", "mpi"], ids=["memory", "messages"])
def test_a_wait_without_end_is_ended_with_both_names(kind):
    """In a job of its own, which rank 0 starts, because it ends."""
    if MPI.COMM_WORLD.rank == 0:
        import os

        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("OMPI_COMM", "PMIX", "PMI_"))
        }
        done = subprocess.run(
            [Path(sys.executable).parent / "mpirun", "-n", "2", sys.executable, "-c", LONELY, kind],
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode != 0
        assert "decode step 7: chip (0, 0) waited 1 s for chip (0, 1) in lonely" in done.stderr
    MPI.COMM_WORLD.Barrier()
