"""Binding: one chip's program as calls on arrays that exist, in phases between crossings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from galaxy_mpi.arrays import F32, Array, Bytes, Call
from galaxy_mpi.ccl.algorithms import Algorithms
from galaxy_mpi.ccl.builder import Bound
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import DType
from galaxy_mpi.dtypes.codec import Codec
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.plane import Crossing, Label, Plane
from galaxy_mpi.program.bind_checks import check_shapes, check_wires, check_written
from galaxy_mpi.program.codecs import Codecs
from galaxy_mpi.program.op import Program, Tensor, Use
from galaxy_mpi.program.poison import POISON, PoisonedPlane
from galaxy_mpi.program.pool import ArrayPool

__all__ = ["Binder", "Call", "Phase", "Tap"]


Tap = Callable[["Binder", Use, tuple[Array, ...]], None]
"""Called after each op while a program is bound, with the op's arrays; it may add calls. All arrays
are of float32, but for the numbers of sampled tokens."""


@dataclass
class Phase:
    """The calls of a chip between two crossings."""

    calls: list[Call] = field(default_factory=list)
    crossing: Crossing | None = None
    """After the calls; None after the last phase."""
    begins: list[tuple[int, Use]] = field(default_factory=list)
    """Each op of the phase, with the number of its first call."""

    def use_of(self, number: int) -> Use | None:
        """Return the op that added a call."""
        found = [use for begin, use in self.begins if begin <= number]
        return found[-1] if found else None


class Binder:
    """One chip's program under construction.

    Parameters
    ----------
    mesh : Mesh
    rank : int
        Of the chip.
    planes : mapping of Axis to Plane
    algorithms : Algorithms
        How collectives run.
    pool : ArrayPool, optional
        Shared by all programs of the chip, which run one after the other.
    codecs : Codecs, optional
        Shared by all programs of the thread.
    taps : tuple of Tap
    poisons : bool
        Whether to overwrite memory as soon as it may be reused (`galaxy_mpi.program.poison`).

    Attributes
    ----------
    use : Use or None
        The op that is being bound.
    exchanged : list of (Use, Wire)
        The collectives that ops have asked for, in order, without those of a group of one chip
        that the system skips. Device time must charge the same (`galaxy_mpi.timing.Tape.check`).
    """

    def __init__(
        self,
        mesh: Mesh,
        rank: int,
        planes: Mapping[Axis, Plane],
        algorithms: Algorithms,
        *,
        pool: ArrayPool | None = None,
        codecs: Codecs | None = None,
        taps: tuple[Tap, ...] = (),
        poisons: bool = False,
    ) -> None:
        self.mesh, self.rank = mesh, rank
        self.exchanged: list[tuple[Use, Wire]] = []
        self._codecs = codecs or Codecs()
        self.row, self.col = mesh.coord(rank)
        self._algorithms, self._taps = algorithms, taps
        self._planes = planes
        self._poisoned: tuple[PoisonedPlane, ...] = ()
        if poisons:
            self._poisoned = tuple(PoisonedPlane(plane, self.call) for plane in planes.values())
            self._planes = {plane.axis: plane for plane in self._poisoned}
        self.pool = pool or ArrayPool()
        self.phases = [Phase()]
        self.arrays: dict[Tensor, Array] = {}
        self._owners: dict[Tensor, int | None] = {}
        """The storage of outputs that are still read, see `ArrayPool.owner`."""
        self._taken: list[Array] = []
        self._program, self._last_uses = Program(), dict[Tensor, int]()
        self._n_collectives = 0
        self.use: Use | None = None
        self._axes: dict[Label, Axis] = {}
        self._uncrossed: list[Wire] = []
        """Of collectives that the op has made; each crossing takes the oldest."""
        self._crossed: set[int] = set()
        """The crossings of `phases`."""

    @property
    def where(self) -> str:
        """The op that is being bound and the chip, for errors."""
        return f"{self.use}, chip ({self.row}, {self.col})"

    def ran_as(self) -> dict[str, str]:
        """Return the algorithm of each buffer's collective, for reports."""
        return self._algorithms.ran_as((wire for _, wire in self.exchanged), self._planes)

    def plane(self, axis: Axis) -> Plane:
        """Return the connection of this chip's group along ``axis``."""
        return self._planes[axis]

    def index(self, axis: Axis) -> int:
        """Return this chip's index in its group along ``axis``."""
        return self.row if axis is Axis.COLUMN else self.col

    def size(self, axis: Axis) -> int:
        """Return the members of a group along ``axis``."""
        return self.mesh.size(axis)

    def label(self, wire: Wire) -> Label:
        """Return what all members must agree on in the next exchange."""
        number = self._n_collectives
        self._n_collectives += 1
        op = "" if self.use is None else f", {self.use}"
        label = Label(wire.digest(number), f"{wire}{op}")
        self._axes[label] = wire.axis
        self._uncrossed.append(wire)
        return label

    def axis_of(self, label: Label) -> Axis:
        """Return the axis of the collective that was bound with a label."""
        return self._axes[label]

    def array(self, *shape: int) -> F32:
        """Return an array that lives until the op ends, or as long as it is read as output."""
        values = self.pool.take(*shape)
        self._taken.append(values)
        return values

    def bytes(self, *shape: int) -> Bytes:
        """Return bytes that live as an `array` does."""
        values = self.pool.take_bytes(int(np.prod(shape)))
        self._taken.append(values)
        return values.reshape(shape)

    def codec(self, dtype: DType, shape: tuple[int, ...]) -> Codec:
        """Return the codec of a shape; all ops of the thread share it."""
        return self._codecs.get(dtype, shape)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Add a call to the phase.

        Raises
        ------
        ProgramError
            If the first argument is no function.
        """
        if not callable(function):
            raise ProgramError(
                f"{self.where}: `chip.call` needs a function and its arguments, for example "
                f"`chip.call(numpy.multiply, x, 2, out)`; got {type(function).__name__}"
            )
        self.phases[-1].calls.append((function, arguments))

    def cross(self, crossing: Crossing) -> None:
        """End the phase; the next one begins after the crossing."""
        if id(crossing) in self._crossed:
            raise ProgramError(
                f"{self.where}: its `bind` calls `cross()` of one "
                f"collective twice ({crossing.label.text}); make a second collective, and "
                f"charge it"
            )
        self._crossed.add(id(crossing))
        self.phases[-1].crossing = crossing
        del self._uncrossed[:1]
        self.phases.append(Phase())
        if self.use is not None:
            self.phases[-1].begins.append((0, self.use))
        for plane in self._poisoned:
            plane.passed(crossing)

    def collective(self, wire: Wire, *, by_rows: bool = False) -> Bound:
        """Return a collective to write to and cross, see `galaxy_mpi.ccl.builder.Bound`."""
        self._note_exchange(wire)
        return self._algorithms.bind(self, wire, by_rows=by_rows)

    def slabs(self, wire: Wire, pieces: Sequence[slice] = ()) -> Iterator[tuple[slice, Bound]]:
        """Yield row ranges with their collectives, for an op that processes rows as they arrive.

        Write to each and cross it before asking for the next.

        Parameters
        ----------
        wire : Wire
            For the whole tensor (S, W).
        pieces : sequence of slice, optional
            Adjacent row ranges that must not be split.
        """
        self._note_exchange(wire)
        return self._algorithms.slabs(self, wire, pieces)

    def bind(self, program: Program, inputs: Mapping[str, Array]) -> None:
        """Bind all of a program.

        Parameters
        ----------
        program : Program
        inputs : mapping of str to array
            Arrays of `Program.inputs`, filled in before each run.
        """
        self.begin(program, inputs)
        for number in range(len(program.uses)):
            self.bind_use(number)

    def begin(self, program: Program, inputs: Mapping[str, Array]) -> None:
        """Begin to bind a program, see `bind`."""
        for name, tensor in program.inputs.items():
            self.arrays[tensor] = inputs[name]
        self._program, self._last_uses = program, program.last_uses()
        for tensor in (*program.inputs.values(), *program.results.values()):
            self._last_uses[tensor] = len(program.uses)

    def bind_use(self, number: int) -> None:
        """Bind one op. All chips of a process bind it before any binds the next."""
        use = self.use = self._program.uses[number]
        self.phases[-1].begins.append((len(self.phases[-1].calls), use))
        inputs = [self.arrays[i] if isinstance(i, Tensor) else i for i in use.inputs]
        self._uncrossed.clear()
        n_exchanged, n_phases = len(self.exchanged), len(self.phases)
        n_calls = len(self.phases[-1].calls)
        where = f"{self.where}: its `bind` ({type(use.op).__name__})"
        made = use.op.bind(self, *inputs)
        if self._uncrossed:
            raise ProgramError(
                f"{where} makes the collective {self._uncrossed[-1]}, but does not call its "
                f"`cross()`"
            )
        check_wires(
            where,
            [wire for wire in use.op.wires() if self._is_exchanged(wire)],
            [wire for _, wire in self.exchanged[n_exchanged:]],
        )
        outputs = made if isinstance(made, tuple) else ()
        if use.outputs and made is not None and not isinstance(made, tuple):
            outputs = (made,)
        check_shapes(where, [tensor.shape for tensor in use.outputs], outputs)
        if len(self.phases) == n_phases:  # what is received is in memory of the planes
            calls = self.phases[-1].calls[n_calls:]
            check_written(where, outputs, inputs, calls)
        for tensor, array in zip(use.outputs, outputs, strict=True):
            self.arrays[tensor], self._owners[tensor] = array, self.pool.owner(array)
        for tap in self._taps:
            tap(self, use, outputs)
        self._release(number)

    def result(self, name: str) -> Array:
        """Return the array of a result of the program."""
        return self.arrays[self._program.results[name]]

    def _is_exchanged(self, wire: Wire) -> bool:
        """Return False for a group of one chip that the system skips."""
        return self._algorithms.takes_time(wire, self.size(wire.axis))

    def _note_exchange(self, wire: Wire) -> None:
        if self.use is not None and self._is_exchanged(wire):
            self.exchanged.append((self.use, wire))

    def _release(self, number: int) -> None:
        """Return arrays that no later op reads to the pool."""
        dead = [tensor for tensor in self.arrays if self._last_uses[tensor] <= number]
        owners = {self.pool.owner(array) for array in self._taken}
        for tensor in dead:
            del self.arrays[tensor]
            owners.add(self._owners.pop(tensor, None))  # inputs of the program have none
        for owner in owners.difference(self._owners.values()):
            if owner is not None:
                storage = self.pool.give_back(owner)
                if self._poisoned:
                    self.call(storage.fill, POISON)
        self._taken.clear()
