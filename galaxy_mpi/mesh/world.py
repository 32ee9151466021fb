"""Whether the ranks of a run fit its mesh, and what to type when they do not."""

from galaxy_mpi.errors import MeshError, common
from galaxy_mpi.mesh.mesh import Mesh

__all__ = ["check_world"]


def check_world(mesh: Mesh, n_ranks: int, environ: dict[str, str]) -> None:
    """Raise if ``n_ranks`` is not what ``mesh`` needs, with a line that says what to type.

    Raises
    ------
    MeshError
        If the numbers differ.
    """
    if n_ranks == mesh.n_chips:
        return
    got = f"the {mesh} mesh needs {mesh.n_chips} ranks, this run has {n_ranks}"
    tasks = environ.get("SLURM_NTASKS", "1")
    if n_ranks == 1 and tasks not in ("", "0", "1") and tasks.isdecimal():
        raise common(
            MeshError(
                f"{got}: srun started {tasks[:9]} processes that do not know each "
                f"other; use `mpirun -n {mesh.n_chips}` inside the allocation, or srun with this "
                f"MPI's --mpi"
            )
        )
    raise common(
        MeshError(f"{got}: start it with `mpirun -n {mesh.n_chips}` or pass {_fitting(n_ranks)}")
    )


def _fitting(n_ranks: int) -> str:
    """Name the mesh of ``n_ranks`` chips that is most like the Galaxy's 8x4."""
    cols = max(c for c in range(1, n_ranks + 1) if n_ranks % c == 0 and c * c <= n_ranks)
    return f"--mesh {n_ranks // cols}x{cols}"
