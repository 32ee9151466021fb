"""Ops, and the program that a model makes by calling them.

A model runs once with *tensors* that have a shape but no values (`Tensor`), and every op it calls
records itself in the program. All else reads the program's `uses`: the binder turns them into calls
on arrays, clocks add up their charges, and the budget sums their wires.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from galaxy_mpi.arrays import Array
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program.charge import Charge
from galaxy_mpi.program.memory import Matrix

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["HEAD", "Cut", "Cuts", "Op", "Program", "Tensor", "Use"]

HEAD = -1
"""Layer number of ops before the first layer and after the last."""

Cut = tuple[tuple[Axis, ...], ...]
"""For each dim of a chip's array, the mesh axes that shard it, outer one first. Chips that differ
only along other axes hold the same values."""

Cuts = Mapping[str, Cut]
"""Sharding of outputs, by name."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of one chip, as the program knows it."""

    program: "Program" = field(repr=False)
    name: str
    shape: tuple[int, ...]


class Op(ABC):
    """One op of a system: what it computes, what it sends, and its charges of device time.

    A subclass has a ``__call__``, which takes the op's tensors and returns tensors made by
    `record`, and a ``bind``, which takes this chip's binder and arrays in place of tensors, and
    returns arrays.

    Parameters
    ----------
    name : str
        Name in reports, for example ``rms_norm_attention``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._priced: tuple[Costs | None, tuple[Charge, ...]] = (None, ())

    def wires(self) -> tuple[Wire, ...]:
        """Return the messages of the op, in order."""
        return ()

    def free_wires(self) -> tuple[Wire, ...]:
        """Return those messages that only the emulator sends, which take no device time."""
        return ()

    def matrices(self) -> tuple[Matrix, ...]:
        """Return the matmul weights of the op, in the order of use."""
        return ()

    def cuts(self) -> Cuts:
        """Return how outputs are sharded over the chips; unknown for outputs left out.

        `galaxy_mpi.engine.value_checks` compares replicas by it, and captures join shards by it.
        """
        return {}

    def parts(self) -> Mapping[str, str]:
        """Return which part of the model the sharded dim of an output numbers, by output.

        They are dim, hidden, heads, kv_heads and vocabulary (`galaxy_mpi.models.model_order`).
        """
        return {}

    def cached_bytes(self) -> int:
        """Return the device bytes of the op's cache per position of every user."""
        return 0

    @abstractmethod
    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Yield the op's charges of device time.

        Parameters
        ----------
        costs : galaxy_mpi.timing.Costs
        """

    @abstractmethod
    def bind(self, chip: Any, *inputs: Any) -> Array | tuple[Array, ...] | None:
        """Add the op's calls to a chip's program; return its arrays in the order of outputs.

        Parameters
        ----------
        chip : galaxy_mpi.systems.ChipBinder
        *inputs
            Arrays in place of tensors; everything else as it was recorded.
        """

    def priced(self, costs: "Costs") -> tuple[Charge, ...]:
        """Return the charges, cached for one costs object, because layers share their ops."""
        if self._priced[0] is not costs:
            try:
                self._priced = (costs, tuple(self.charges(costs)))
            except Exception as error:
                if hasattr(error, "add_note"):  # Python 3.11
                    where = f"in `charges` of op {self.name} ({type(self).__name__})"
                    is_replaced = isinstance(error, TypeError) and "replace()" in str(error)
                    how = "; a charge is a named tuple: `charge._replace(...)`" * is_replaced
                    error.add_note(where + how)
                raise
        return self._priced[1]

    def record(
        self, program: "Program", inputs: tuple[object, ...], **outputs: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """Record a use of the op; return a tensor for each output, named and shaped as given."""
        tensors = tuple(
            Tensor(program, f"{self.name}.{name}", shape) for name, shape in outputs.items()
        )
        program.uses.append(Use(self, program.layer, inputs, tensors))
        return tensors


class Use(NamedTuple):
    """One op at its place in the program."""

    op: Op
    layer: int
    inputs: tuple[object, ...]
    """Tensors and other arguments, such as weights or None."""
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        where = "of the head" if self.layer == HEAD else f"of layer {self.layer}"
        return f"op {self.op.name} {where}"

    def named_outputs(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the outputs with the names that the op gave them."""
        for tensor in self.outputs:
            yield tensor.name.removeprefix(f"{self.op.name}."), tensor


class Program:
    """A step or pass of a model on one chip; all chips have the same.

    Parameters
    ----------
    mode : str
        ``decode`` or ``prefill``.

    Attributes
    ----------
    uses : list of Use
        In execution order.
    layer : int
        Layer of the ops that are recorded next.
    inputs : dict of str to Tensor
        Filled in before a run.
    results : dict of str to Tensor
        Read after a run.
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
        """Yield layer numbers; ops recorded meanwhile belong to that layer."""
        for number in range(first, n_layers):
            self.layer = number
            yield number
        self.layer = HEAD

    def wires(self) -> Iterator[tuple[Use, Wire]]:
        """Yield every message, in order."""
        for use in self.uses:
            for wire in use.op.wires():
                yield use, wire

    def charges(self, costs: "Costs") -> Iterator[tuple[Use, Charge]]:
        """Yield every charge of device time, in order."""
        for use in self.uses:
            for charge in use.op.priced(costs):
                yield use, charge

    def last_uses(self) -> dict[Tensor, int]:
        """Return the index of the last use that reads each tensor, or of its producer."""
        last: dict[Tensor, int] = {}
        for number, use in enumerate(self.uses):
            for tensor in (*use.inputs, *use.outputs):
                if isinstance(tensor, Tensor):
                    last[tensor] = number
        return last
