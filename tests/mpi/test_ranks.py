"""Setting up over real ranks: run with mpirun -n 2, 4, 8 and 32 (launch/test.sh)."""

import pytest
from mpi4py import MPI

from galaxy_mpi.errors import ConfigError, MeshError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.mpi import MpiTransport

MESHES = {2: ["1x2", "2x1"], 4: ["2x2", "1x4"], 8: ["8x1", "2x4"], 32: ["8x4"]}

pytestmark = pytest.mark.mpi(min_size=2)


def meshes():
    size = MPI.COMM_WORLD.size
    return [Mesh.parse(text) for text in MESHES.get(size, [f"1x{size}"])]


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
