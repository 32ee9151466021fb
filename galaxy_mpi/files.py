"""Files that commands write, whole or not at all."""

import contextlib
import errno
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from galaxy_mpi.errors import ConfigError

__all__ = [
    "check_page",
    "check_writable",
    "temporary_folder",
    "write_all",
    "write_bytes",
    "write_text",
]

_DRAFT = ".galaxy_mpi-"
"""Prefix of drafts; short, because the name of the file itself may be as long as allowed."""


def write_text(path: Path | None, text: str) -> None:
    """Write ``text`` as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path | None, content: bytes) -> None:
    """Write ``content``, whole or not at all; nothing without a path.

    A link stays one: what it points to is written. A file that there is already keeps its mode.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    if path is None:
        return
    try:
        _write(path, content)
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_write(str(path), error) from None


def write_all(files: Iterable[tuple[Path | None, str | bytes]]) -> None:
    """Write several files, all of those that can be written.

    Raises
    ------
    ConfigError
        The first error, after the other files are written.
    """
    failed: ConfigError | None = None
    for path, content in files:
        try:
            if isinstance(content, str):
                write_text(path, content)
            else:
                write_bytes(path, content)
        except ConfigError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def check_writable(option: str, path: Path | None) -> None:
    """Raise if a file could not be written at the end of a run; leave nothing behind.

    Raises
    ------
    ConfigError
        Naming the option and the reason.
    """
    if path is None:
        return
    try:
        target = _target(path)
        if _is_special(target):  # a device or pipe: only writing would tell
            return
        draft = _make_draft(target)
        os.close(draft[0])
        draft[1].unlink()
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_write(f"{option} {path}", error) from None


def check_page(path: Path | None) -> None:
    """Raise if ``--report`` could not write its page at the end of a run.

    Raises
    ------
    ConfigError
        If it cannot be written, has another file's name, or what draws pages is not installed.
    """
    if path is None:
        return
    check_writable("--report", path)
    if path.suffix not in ("", ".html", ".htm"):
        raise ConfigError(
            f"--report {path} is an HTML page; name it {path.with_suffix('.html').name}"
        )
    for name in ("jinja2", "plotly"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"--report needs {name}, which is not installed: pip install 'galaxy_mpi[report]'"
            )


def _write(path: Path, content: bytes) -> None:
    target = _target(path)
    if _is_special(target):  # a device or pipe cannot be replaced
        with target.open("wb", buffering=0) as file:
            _write_whole(file.fileno(), content)
        return
    descriptor, draft = _make_draft(target)
    try:
        with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
            _write_whole(file.fileno(), content)
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _target(path: Path) -> Path:
    """Return the file to write: with links resolved, in an existing folder.

    Raises
    ------
    OSError
        If the file cannot exist or cannot be written.
    """
    target = path.resolve()
    with contextlib.suppress(FileNotFoundError):
        target.stat()  # names that are too long raise here
        if target.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        # A draft could replace a read-only file, but the protection is deliberate.
        if not os.access(target, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return target


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file()


def _make_draft(target: Path) -> tuple[int, Path]:
    """Open a new file next to ``target``, with the default mode of the user's files."""
    draft = target.with_name(f"{_DRAFT}{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(draft, flags, 0o666), draft


def _write_whole(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _cannot_write(what: str, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, IsADirectoryError):
        return ConfigError(f"{what} is a folder; give the name of a file")
    return ConfigError(
        f"{what} cannot be written: {reason}; name a file in a folder that exists and can be "
        f"written to"
    )


@contextlib.contextmanager
def temporary_folder(rank: int) -> Iterator[Path]:
    """Make a folder on rank 0 for the body; others get a path that they must not use.

    Only rank 0 surely comes to the end of the body, and a killed rank would leave its folder.
    """
    if rank != 0:
        yield Path()
        return
    import tempfile  # few runs need it

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
