"""Taps: calls that are added after ops while a program is bound."""

from collections.abc import Callable, Iterator, Mapping

from galaxy_mpi.arrays import F32, Array
from galaxy_mpi.program import Binder, Program, Tap, Use

__all__ = ["MakeTap", "OnOp", "at_layer_ends", "hook_taps"]

MakeTap = Callable[[Program], Tap]

OnOp = Callable[[str, int, tuple[int, int], Mapping[str, Array]], None]
"""Gets an op's name, its layer (-1: head), the chip and the outputs by name: the very arrays that
later ops read, so who writes to them changes the run."""


def at_layer_ends(hook: Callable[[tuple[int, int], int, tuple[F32, ...]], None]) -> MakeTap:
    """Return a maker of taps that call ``hook`` after every layer.

    Parameters
    ----------
    hook : callable
        Called with the chip, the number of the layer and the outputs of its last op.
    """

    def make(program: Program) -> Tap:
        last = {use.layer: use for use in program.uses}

        def tap(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
            if use.layer >= 0 and last[use.layer] is use:
                chip.call(hook, (chip.row, chip.col), use.layer, outputs)

        return tap

    return make


def hook_taps(
    on_op: OnOp | None, on_layer: Callable[[int, tuple[int, int], F32], None] | None
) -> Iterator[MakeTap]:
    """Yield what calls the hooks."""
    if on_op is not None:

        def behind_op(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
            names = [name for name, _ in use.named_outputs()]
            values = dict(zip(names, outputs, strict=True))
            chip.call(on_op, use.op.name, use.layer, (chip.row, chip.col), values)

        yield lambda program: behind_op
    if on_layer is not None:
        yield at_layer_ends(lambda chip, layer, outputs: on_layer(layer, chip, outputs[0]))
