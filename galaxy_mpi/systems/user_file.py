"""Systems and classes from a user's file, given as ``FILE.py:NAME``."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.systems.catalogue import SYSTEMS
from galaxy_mpi.systems.modules import Attention, Modules, RMSNorm
from galaxy_mpi.systems.table import System

__all__ = ["chosen_modules", "chosen_system", "class_from_file"]

_T = TypeVar("_T")


def chosen_system(text: str) -> str | System:
    """Return a system from a file, or the text itself if it is a name.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has no system of that name.
    """
    if not (text.endswith(".py") or ".py:" in text):
        return text
    path = Path(text.rpartition(".py")[0] + ".py")
    if not path.is_file():
        raise ConfigError(
            f"--system: no file {path}; FILE.py:NAME is a Python file and the name of a System in "
            f"it, which replace(GALAXY, ...) makes; or choose {', '.join(SYSTEMS)}"
        )
    if text.endswith(".py"):
        made = vars(_load("--system", path)).items()
        names = [name for name, value in made if isinstance(value, System)]
        known = f"it has {', '.join(names)}" if names else "it has no System"
        raise ConfigError(
            f"--system {text} names a file, but no System in it ({text}:NAME); {known}"
        )
    found = _from_file("--system", text)
    if not isinstance(found, System):
        raise ConfigError(
            f"--system {text} is not a System but {type(found).__name__}; make one with "
            f"replace(GALAXY, ...), or choose {', '.join(SYSTEMS)}"
        )
    return found


def chosen_modules(
    attention: str | None = None, norm: str | None = None, rope: str | None = None
) -> Modules:
    """Return the replaceable classes of a model, some from files.

    Parameters
    ----------
    attention, norm, rope : str, optional
        ``FILE.py:CLASS`` each, subclasses of `Attention`, `RMSNorm` and `RotaryTable`.

    Raises
    ------
    ConfigError
        If a file cannot be read, or has no such class.
    """

    def chosen(option: str, base: type[_T], text: str | None) -> type[_T]:
        return base if text is None else class_from_file(option, text, base)

    return Modules(
        chosen("--attention-class", Attention, attention),
        chosen("--norm-class", RMSNorm, norm),
        chosen("--rope-class", RotaryTable, rope),
    )


def class_from_file(option: str, text: str, base: type[_T]) -> type[_T]:
    """Return a class from a file.

    Parameters
    ----------
    option : str
        For messages.
    text : str
        ``FILE.py:CLASS``.
    base : type
        Required base class.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has no such class.
    """
    found = _from_file(option, text)
    if not (isinstance(found, type) and issubclass(found, base)):
        where = base.__module__.rpartition(".")[0]
        raise ConfigError(f"{option} {text} is not a subclass of {where}.{base.__name__}")
    return found


def _from_file(option: str, text: str) -> object:
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
    except SyntaxError as error:  # it says where itself
        raise ConfigError(f"{option}: {path} cannot be loaded: SyntaxError: {error}") from error
    except Exception as error:
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = "" if at is None else f", line {at.tb_lineno} of {at.tb_frame.f_code.co_filename}"
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{option}: {path} cannot be loaded: {said}{where}") from error
    return module
