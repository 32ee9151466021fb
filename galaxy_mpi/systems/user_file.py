"""Systems and classes from a file of the user's own, named as ``FILE.py:NAME``."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.systems.catalogue import SYSTEMS
from galaxy_mpi.systems.modules import Attention, Modules
from galaxy_mpi.systems.table import System

__all__ = ["chosen_modules", "chosen_system"]


def chosen_system(text: str) -> str | System:
    """Return a system from a file, or the text itself if it is a name.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has no system of that name.
    """
    if ".py:" not in text:
        return text
    found = _from_file("--system", text)
    if not isinstance(found, System):
        raise ConfigError(
            f"--system {text} is no System but {type(found).__name__}; make one with "
            f"replace(GALAXY, ...), or choose {', '.join(SYSTEMS)}"
        )
    return found


def chosen_modules(attention: str | None) -> Modules:
    """Return the classes of a model, some of them from files.

    Raises
    ------
    ConfigError
        If a file cannot be read, or has no such class.
    """
    if attention is None:
        return Modules()
    found = _from_file("--attention-class", attention)
    if not (isinstance(found, type) and issubclass(found, Attention)):
        raise ConfigError(
            f"--attention-class {attention} is no class made from galaxy_mpi.systems.Attention"
        )
    return Modules(attention_class=found)


def _from_file(option: str, text: str) -> Any:
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"{option} is FILE.py:NAME, got {text!r}")
    module = _load(option, Path(path))
    if not hasattr(module, name):
        known = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(f"{option}: {path} has no {name!r}; it has {', '.join(known)}")
    return getattr(module, name)


def _load(option: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{option}: no file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = "" if at is None else f", line {at.tb_lineno} of {at.tb_frame.f_code.co_filename}"
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{option}: {path} cannot be loaded: {said}{where}") from error
    return module
