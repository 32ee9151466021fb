"""What is checked of an op when it is bound: the messages it makes and the arrays it returns.

All chips must ask for the same collectives in the same order. This is compared before a step runs:
among the chips of a process after each op, and among processes after all of them.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import Array, Call
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.errors import ProgramError, ValuesError

if TYPE_CHECKING:
    from galaxy_mpi.program.binder import Binder
    from galaxy_mpi.program.op import Use

__all__ = ["check_alike", "check_shapes", "check_wires", "check_written", "difference", "texts_of"]

_NOTHING = "nothing more"


def texts_of(exchanged: Iterable[tuple["Use", Wire]]) -> list[tuple[str, str]]:
    """Return each collective as text, and what the text leaves out."""
    return [(f"{w}, {use}", f" ({w.shape} on the device, links {w.links})") for use, w in exchanged]


def difference(
    coord: tuple[int, int],
    mine: Sequence[tuple[str, str]],
    other: tuple[int, int],
    its: Sequence[tuple[str, str]],
) -> ProgramError | None:
    """Return an error with the first collective in which two chips differ, None if they agree.

    Parameters
    ----------
    coord, other : tuple of int
        The chips.
    mine, its : sequence of (str, str)
        Their collectives, see `texts_of`.
    """
    for left, right in zip_longest(mine, its, fillvalue=(_NOTHING, "")):
        if left != right:
            texts = ["".join(one) if left[0] == right[0] else one[0] for one in (left, right)]
            return ProgramError(
                f"chip {coord} exchanges {texts[0]}, but chip {other} exchanges {texts[1]}; the "
                f"ops of all chips must make the same collectives, in the same order"
            )
    return None


def check_alike(chips: Sequence["Binder"], first: int) -> None:
    """Raise if the chips of a process have made different collectives since number ``first``.

    Raises
    ------
    ProgramError
        With two chips, their op and both wires.
    """
    known = [wire for _, wire in chips[0].exchanged[first:]]
    for chip in chips[1:]:
        if [wire for _, wire in chip.exchanged[first:]] != known:
            mine, its = (texts_of(one.exchanged[first:]) for one in (chip, chips[0]))
            error = difference((chip.row, chip.col), mine, (chips[0].row, chips[0].col), its)
            assert error is not None
            raise error
        if len(chip.phases) != len(chips[0].phases):  # of an algorithm of the user's
            raise ProgramError(
                f"{chip.use}: chip ({chip.row}, {chip.col}) exchanges {len(chip.phases) - 1} times "
                f"up to here, but chip ({chips[0].row}, {chips[0].col}) "
                f"{len(chips[0].phases) - 1} times; every chip must exchange equally often"
            )


def check_wires(where: str, declared: Sequence[Wire], exchanged: Sequence[Wire]) -> None:
    """Raise if an op exchanges other messages than its `Op.wires` names.

    Parameters
    ----------
    where : str
        The op, the chip and its class, for the error.
    declared, exchanged : sequence of Wire
        Without those of a group of one chip that the system skips.

    Raises
    ------
    ProgramError
        With both wires.
    """
    for found, named in zip_longest(exchanged, declared):
        if found != named:
            raise ProgramError(f"{where} {_told(found, named)}")


def check_shapes(where: str, declared: Sequence[tuple[int, ...]], found: Sequence[Array]) -> None:
    """Raise if an op returned other shapes than it recorded; numpy might broadcast silently.

    Raises
    ------
    ValuesError
    """
    shapes = [np.shape(array) for array in found]
    if shapes != list(declared):
        raise ValuesError(
            f"{where} returned arrays of shapes {shapes}, but its `__call__` recorded "
            f"{list(declared)}"
        )


def check_written(
    where: str, outputs: Iterable[Array], known: Iterable[object], calls: Sequence[Call]
) -> None:
    """Raise if an op returned an array that none of its calls can write.

    Parameters
    ----------
    where : str
        As of `check_wires`.
    outputs : iterable of array
    known : iterable
        What the op was given.
    calls : sequence of Call
        What it recorded. Nothing is raised if one of them may have arrays that are not among its
        arguments.

    Raises
    ------
    ProgramError
    """
    if not all(_is_plain(call) for call, _ in calls):
        return
    values = (v for call, of in calls for v in (*of, getattr(call, "__self__", None)))
    arrays = [value for value in (*known, *values) if isinstance(value, np.ndarray)]
    for out in outputs:
        if out.size and not any(np.may_share_memory(out, array) for array in arrays):
            raise ProgramError(
                f"{where} returned an array that none of its calls writes. `bind` runs once, "
                f"before there are values: record calls, for example `chip.call(numpy.multiply, x, "
                f"2, out)`, or `chip.call(numpy.copyto, out, values)` for a constant"
            )


def _is_plain(call: object) -> bool:
    """Return whether all arrays of a call are its arguments, or the array it is a method of."""
    owner = getattr(call, "__self__", None)
    if isinstance(owner, (np.ndarray, np.ufunc)) or isinstance(call, np.ufunc):
        return True
    # Codecs have arrays of their own, but write only to their arguments.
    module = getattr(call, "__module__", None) if owner is None else type(owner).__module__
    return module == "numpy" or str(module).startswith("galaxy_mpi.dtypes.")


def _told(found: Wire | None, named: Wire | None) -> str:
    """Return how what an op exchanges differs from what its `Op.wires` name."""
    if found is None:
        return f"does not exchange {named}, which its `wires` name"
    if named is None:
        return (
            f"exchanges {found}, which its `wires` do not name; name it there, and in `free_wires` "
            f"too if only the emulator sends it"
        )
    return f"exchanges {found.told_from(named)}, but its `wires` name {named.told_from(found)}"
