import pytest

from galaxy_mpi.errors import MeshError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.world import check_world


@pytest.mark.parametrize("text", ["1x1", "1x8", "8x4", "3x5", " 2X2 "])
def test_every_chip_has_one_place(text):
    mesh = Mesh.parse(text)
    coords = [mesh.coord(rank) for rank in range(mesh.n_chips)]
    assert len(set(coords)) == mesh.n_chips == mesh.rows * mesh.cols
    assert [mesh.rank(*coord) for coord in coords] == list(range(mesh.n_chips))


def test_groups_are_the_rows_and_columns_of_the_mesh():
    mesh = Mesh(8, 4)
    assert mesh.group(5, Axis.ROW) == (4, 5, 6, 7)
    assert mesh.group(5, Axis.COLUMN) == (1, 5, 9, 13, 17, 21, 25, 29)
    for rank in range(32):
        for axis in Axis:
            group = mesh.group(rank, axis)
            assert group[mesh.index(rank, axis)] == rank
            assert len(group) == mesh.size(axis)


@pytest.mark.parametrize("text", ["", "8", "8x", "x4", "0x4", "-1x4", "8x4x1", "eightxfour"])
def test_a_mesh_that_is_none_is_refused(text):
    with pytest.raises(MeshError, match="mesh"):
        Mesh.parse(text)


def test_a_rank_outside_is_refused():
    with pytest.raises(MeshError, match="rank 32 is outside the 8x4 mesh of 32"):
        Mesh().coord(32)


def test_a_wrong_number_of_ranks_says_what_to_type():
    check_world(Mesh(8, 4), 32, {})
    with pytest.raises(
        MeshError, match=r"`mpirun -n 32` or pass --mesh 4x2 or --chips-per-rank 4$"
    ):
        check_world(Mesh(8, 4), 8, {})
    with pytest.raises(MeshError, match=r"--mesh 1x1 or --chips-per-rank 32$"):
        check_world(Mesh(8, 4), 1, {})
    with pytest.raises(MeshError, match=r"--mesh 7x1$"):
        check_world(Mesh(8, 4), 7, {})
    check_world(Mesh(8, 4), 2, {}, 16)
    with pytest.raises(MeshError, match="needs 2 ranks of 16 chips each, this run has 4"):
        check_world(Mesh(8, 4), 4, {}, 16)
    with pytest.raises(MeshError, match="--chips-per-rank can be 1, 2, 3, 4, 6, 12$"):
        check_world(Mesh(3, 4), 4, {}, 5)


def test_singletons_of_srun_are_told_apart():
    with pytest.raises(MeshError, match="srun started 32 unconnected processes"):
        check_world(Mesh(8, 4), 1, {"SLURM_NTASKS": "32"})
    for left_over in ("", "x", "1"):
        with pytest.raises(MeshError, match=r"--mesh 1x1 or --chips-per-rank 32$"):
            check_world(Mesh(8, 4), 1, {"SLURM_NTASKS": left_over})
