"""Ops, and the program that a model makes by calling them.

A model runs once with *tensors* that have a shape and no values (`Tensor`). Every op it calls notes
itself in the program. Whoever needs the program walks its `uses`: a runner binds them to arrays,
clocks add up their charges, the budget their wires.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program.charge import Charge
from galaxy_mpi.program.memory import Matrix

__all__ = ["HEAD", "Cut", "Cuts", "Op", "Program", "Tensor", "Use"]

HEAD = -1
"""Stands for a layer's number before the first layer and behind the last."""

Cut = tuple[tuple[Axis, ...], ...]
"""For each dim of a chip's array the axes of the mesh that share it, the outer one first. Chips
that differ along other axes only hold the same values."""

Cuts = Mapping[str, Cut]
"""How outputs are cut, by name."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of one chip, as the program knows it."""

    program: "Program" = field(repr=False)
    name: str
    shape: tuple[int, ...]


class Op(ABC):
    """One op of a system: what it computes, what it sends, what the device is charged for it.

    A subclass has a ``__call__`` with the op's tensors, which returns tensors made by `record`, and
    a ``bind`` that takes this chip's binder and arrays in place of the tensors and returns arrays.

    Parameters
    ----------
    name : str
        What reports call it, for example ``rms_norm_attention``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._priced: tuple[Any, tuple[Charge, ...]] = (None, ())

    def wires(self) -> tuple[Wire, ...]:
        """Return the messages of the op, in order."""
        return ()

    def matrices(self) -> tuple[Matrix, ...]:
        """Return the matmul weights of the op, in the order in which it takes them."""
        return ()

    def cuts(self) -> Cuts:
        """Return how the outputs are cut over the chips; of those left out nothing is known.

        It is what `galaxy_mpi.engine.value_checks` compares and what captured values are joined
        by.
        """
        return {}

    def cached_bytes(self) -> int:
        """Return the device bytes of the op's cache, for each position of every user."""
        return 0

    @abstractmethod
    def charges(self, costs: Any) -> Iterator[Charge]:
        """Yield what the device is charged for it.

        Parameters
        ----------
        costs : galaxy_mpi.timing.Costs
        """

    @abstractmethod
    def bind(self, chip: Any, *inputs: Any) -> Any:
        """Add the op's calls to a chip's program and return its arrays, in the order of outputs.

        Parameters
        ----------
        chip : galaxy_mpi.systems.ChipBinder
        *inputs
            Arrays in place of tensors; everything else as it was recorded.
        """

    def priced(self, costs: Any) -> tuple[Charge, ...]:
        """Return the charges, kept until other costs are asked for: layers share their ops."""
        if self._priced[0] is not costs:
            self._priced = (costs, tuple(self.charges(costs)))
        return self._priced[1]

    def record(
        self, program: "Program", inputs: tuple[object, ...], **outputs: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """Note a use of the op; return a tensor for each output, named and shaped as given."""
        tensors = tuple(
            Tensor(program, f"{self.name}.{name}", shape) for name, shape in outputs.items()
        )
        program.uses.append(Use(self, program.layer, inputs, tensors))
        return tensors


@dataclass(frozen=True)
class Use:
    """An op in its place in the program."""

    op: Op
    layer: int
    inputs: tuple[object, ...]
    """Tensors, and what is no tensor: weights, None."""
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        where = "of the head" if self.layer == HEAD else f"of layer {self.layer}"
        return f"op {self.op.name} {where}"

    def named_outputs(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the outputs with the names that the op gave them."""
        for tensor in self.outputs:
            yield tensor.name.removeprefix(f"{self.op.name}."), tensor


class Program:
    """A step or a pass of a model on one chip, the same for all chips.

    Parameters
    ----------
    mode : str
        ``decode`` or ``prefill``.

    Attributes
    ----------
    uses : list of Use
        In the order in which they run.
    layer : int
        Of the ops that are recorded next.
    inputs : dict of str to Tensor
        What is filled in before a run.
    results : dict of str to Tensor
        What is read after it.
    """

    def __init__(self, mode: str = "decode") -> None:
        self.mode = mode
        self.uses: list[Use] = []
        self.layer = HEAD
        self.inputs: dict[str, Tensor] = {}
        self.results: dict[str, Tensor] = {}

    def input(self, name: str, *shape: int) -> Tensor:
        """Return a tensor whose values are filled in before each run."""
        self.inputs[name] = Tensor(self, name, shape)
        return self.inputs[name]

    def layers(self, n_layers: int, first: int = 0) -> Iterator[int]:
        """Yield the numbers of the layers; what is recorded meanwhile belongs to them."""
        for number in range(first, n_layers):
            self.layer = number
            yield number
        self.layer = HEAD

    def wires(self) -> Iterator[tuple[Use, Wire]]:
        """Yield every message, in order."""
        for use in self.uses:
            for wire in use.op.wires():
                yield use, wire

    def charges(self, costs: Any) -> Iterator[tuple[Use, Charge]]:
        """Yield everything the device is charged for, in order."""
        for use in self.uses:
            for charge in use.op.priced(costs):
                yield use, charge

    def last_uses(self) -> dict[Tensor, int]:
        """Return the place of the last use that reads each tensor, its maker's if nobody does."""
        last: dict[Tensor, int] = {}
        for number, use in enumerate(self.uses):
            for tensor in (*use.inputs, *use.outputs):
                if isinstance(tensor, Tensor):
                    last[tensor] = number
        return last
