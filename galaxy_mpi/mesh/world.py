"""Check that the ranks of a run fit its mesh, and suggest a command if they do not."""

from galaxy_mpi.errors import MeshError, common
from galaxy_mpi.mesh.mesh import Mesh

__all__ = ["check_world"]


def check_world(mesh: Mesh, n_ranks: int, environ: dict[str, str], chips_per_rank: int = 1) -> None:
    """Raise if ``n_ranks`` does not fit ``mesh``, with a message that suggests a command.

    A rank plays ``chips_per_rank`` chips.

    Raises
    ------
    MeshError
        If the numbers differ.
    """
    if chips_per_rank < 1 or mesh.n_chips % chips_per_rank:
        fitting = [n for n in range(1, mesh.n_chips + 1) if mesh.n_chips % n == 0]
        raise common(
            MeshError(
                f"the {mesh} mesh has {mesh.n_chips} chips, which cannot be divided into ranks of "
                f"{chips_per_rank}; --chips-per-rank can be {', '.join(map(str, fitting))}"
            )
        )
    needed = mesh.n_chips // chips_per_rank
    if n_ranks == needed:
        return
    each = "" if chips_per_rank == 1 else f" of {chips_per_rank} chips each"
    got = f"the {mesh} mesh needs {needed} ranks{each}, this run has {n_ranks}"
    tasks = environ.get("SLURM_NTASKS", "1")
    if n_ranks == 1 and tasks not in ("", "0", "1") and tasks.isdecimal():
        raise common(
            MeshError(
                f"{got}: srun started {tasks[:9]} unconnected processes;"
                f" use `mpirun -n {needed}` inside the allocation, or srun with this MPI's "
                f"--mpi"
            )
        )
    choices = [f"--mesh {_fitting(n_ranks * chips_per_rank)}"]
    if mesh.n_chips % n_ranks == 0:
        choices.append(f"--chips-per-rank {mesh.n_chips // n_ranks}")
    choice = " or ".join(choices)
    raise common(MeshError(f"{got}: start it with `mpirun -n {needed}` or pass {choice}"))


def _fitting(n_chips: int) -> str:
    """Return the mesh of ``n_chips`` chips whose shape is closest to the Galaxy's 8x4."""
    cols = max(c for c in range(1, n_chips + 1) if n_chips % c == 0 and c * c <= n_chips)
    return f"{n_chips // cols}x{cols}"
