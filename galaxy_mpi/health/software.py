"""What is installed: Python, the codec, torch, BLAS, models."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from galaxy_mpi.blas import blas_kernels
from galaxy_mpi.dtypes import codec_name
from galaxy_mpi.errors import UserError
from galaxy_mpi.health.finding import Finding, Level

__all__ = ["software_findings"]

_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def software_findings(environ: dict[str, str], fetched: Path) -> list[Finding]:
    """Check what is installed.

    Parameters
    ----------
    environ : dict
        Of the process.
    fetched : Path
        Where fetched models are.
    """
    return [
        Finding("python", Level.GOOD, f"{sys.version.split()[0]}, {sys.executable}"),
        _codec(),
        _torch(),
        _blas(environ),
        _kernels(environ),
        _models(environ, fetched),
    ]


def _codec() -> Finding:
    try:
        name = codec_name()
    except UserError as error:
        return Finding("codec", Level.BAD, str(error))
    if name != "compiled":
        advice = (
            "compiled it is several times as fast: install a C compiler, then this package again"
        )
        return Finding("codec", Level.NOTE, name, advice)
    return Finding("codec", Level.GOOD, name)


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        advice = (
            "models of a billion parameters and more are faster with torch: pip install "
            "'galaxy_mpi[torch]'"
        )
        return Finding("torch", Level.NOTE, "not installed, so numpy multiplies", advice)
    return Finding("torch", Level.GOOD, importlib.metadata.version("torch"))


def _blas(environ: dict[str, str]) -> Finding:
    said = [f"{name}={environ[name]}" for name in _BLAS if name in environ]
    many = [word for word in said if word.split("=")[1] != "1"]
    if many:
        advice = "set it to 1: thread pools in each rank slow down all of them"
        return Finding("BLAS threads", Level.NOTE, " ".join(many), advice)
    found = " ".join(said) or "not set; commands use 1 per rank"
    return Finding("BLAS threads", Level.GOOD, found)


def _kernels(environ: dict[str, str]) -> Finding:
    kernels = blas_kernels()
    if asked := environ.get("OPENBLAS_CORETYPE"):
        found = f"{kernels} (OPENBLAS_CORETYPE={asked})"
        advice = (
            "unset it for this processor's own: products may take half as long, and differ in "
            "their last bits"
        )
        return Finding("BLAS kernels", Level.NOTE, found, advice)
    return Finding("BLAS kernels", Level.GOOD, kernels)


def _models(environ: dict[str, str], fetched: Path) -> Finding:
    asked = environ.get("LLAMA_DIR", "")
    if asked:
        folder = Path(asked)
        names = ("config.json", "params.json")
        if folder.suffix == ".gguf" and folder.is_file():
            return Finding("model", Level.GOOD, f"LLAMA_DIR={asked}")
        if not any((folder / name).is_file() for name in names):
            found = f"LLAMA_DIR={asked} has no {' or '.join(names)}"
            advice = "name a folder that has one, or unset the variable for the demo model"
            return Finding("model", Level.BAD, found, advice)
        return Finding("model", Level.GOOD, f"LLAMA_DIR={asked}")
    if any(fetched.glob("smollm2/*.gguf")):
        return Finding("model", Level.GOOD, "demo (default) and smollm2")
    found = "demo (default)"
    return Finding("model", Level.GOOD, f"{found}; `sh launch/fetch_model.sh smollm2` for more")
