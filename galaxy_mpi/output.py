"""Files that a command writes: whole or not at all."""

import os
from pathlib import Path

from galaxy_mpi.errors import ConfigError

__all__ = ["write_bytes", "write_text"]


def write_text(path: Path | None, text: str) -> None:
    """Write ``text`` as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path | None, content: bytes) -> None:
    """Write ``content``, whole or not at all; nothing without a path.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # a device or pipe cannot be replaced
            path.write_bytes(content)
            return
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from None
