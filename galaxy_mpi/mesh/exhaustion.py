"""Whether a process has run out of memory, whatever error it ends with.

Without memory, Python and libraries raise other errors than `MemoryError`: a thread that cannot
start, a module whose library cannot be mapped, even an index out of range, because the
`MemoryError` was lost on the way. So the process is asked for memory instead.

It imports nothing that a process without memory would have to load.
"""

import errno

__all__ = ["lacks_memory"]

_PROBE_BYTES = 64 * 2**20
"""More than the largest block that the C library serves from what it has (32 MiB), so that the
kernel is asked; it gives address space, and no memory before that is used."""


def lacks_memory(error: BaseException, probe_bytes: int = _PROBE_BYTES) -> bool:
    """Return whether an error is one of memory, or was caused by one, or there is no more memory.

    Parameters
    ----------
    error : BaseException
    probe_bytes : int
        Memory that a process has which does not lack any.
    """
    try:
        if _is_of_memory(error):
            return True
        bytes(probe_bytes)
    except MemoryError:  # not even for the question
        return True
    return False


def _is_of_memory(error: BaseException) -> bool:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if isinstance(each, MemoryError) or _number(each) == errno.ENOMEM:
            return True
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return False


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
