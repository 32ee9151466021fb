"""The device clock of all chips of a mesh, for one step or for many at once.

It gives the times of `galaxy_mpi.timing.mesh_clock` without what happens between, and much faster.
Times are in ticks, so sums are exact, which allows two things:

* What chips do between two collectives is added up once, for all layers.
* A layer is played from times relative to chip (0, 0). If the next layer is the same and begins
  with the same relative times, it ends with the same, later by as much. After two or three layers
  that is so, unless weights are prefetched or the host issues ops: then absolute times matter.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Charge, Cross, Kernel, Take
from galaxy_mpi.timing.hops import Seconds, hop_delays, near_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape, Told
from galaxy_mpi.timing.ticks import array_in_ticks

__all__ = ["ChipsClock", "Played"]

Attended = Sequence[tuple[Seconds, Seconds]]
"""Of each attention: seconds, and seconds for which it keeps DRAM busy, shape (C, B)."""


@dataclass
class Played:
    """Where the chips are in B steps; arrays of shape (R, C, B), R = 1 if rows are alike."""

    now: Seconds
    dram_free: Seconds
    stall_s: Seconds
    """How long each chip waited for weights."""
    left: list[Seconds] = field(default_factory=list)
    """When each weight left the circular buffers."""
    n_issued: int = 0
    ends: list[Seconds] = field(default_factory=list)
    """Moments of chip (0, 0) in the first step, in pieces."""
    stalls: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Seconds of each step, until its last chip is done."""
        found: list[float] = self.now.max(axis=(0, 1)).tolist()
        return found

    @property
    def told(self) -> Told:
        """The record of chip (0, 0) in the first step."""
        told = Told()
        told.ends = np.concatenate(self.ends).tolist() if self.ends else []
        told.stalls = self.stalls
        return told


Action = Callable[[Played], None]


class ChipsClock:
    """Device time of every chip in a program.

    Parameters
    ----------
    tape : Tape
    mesh : Mesh
    slowness : Slowness, optional
    """

    def __init__(self, tape: Tape, mesh: Mesh, slowness: Slowness | None = None) -> None:
        self._tape, self._mesh = tape, mesh
        slowness = slowness or Slowness()
        is_even = slowness == Slowness()
        farthest = hop_delays(tape.costs.machine, mesh.rows).max(axis=1)
        self._is_one_row = is_even and len(set(farthest.tolist())) == 1
        kept = slice(0, 1 if self._is_one_row else mesh.rows)
        self._shape = (1 if self._is_one_row else mesh.rows, mesh.cols)
        self._factor: Seconds | None = None if is_even else slowness.chip_factors(mesh)[kept]
        self._wires: dict[Axis, Seconds | None] = {
            axis: None if is_even else slowness.wire_factors(mesh, axis)[kept] for axis in Axis
        }
        self._layers = [
            (tuple(map(id, charges)), charges) for charges in map(list, _by_layer(tape))
        ]
        self._meetings: dict[int, Action] = {}
        self._is_relative = not tape.issue_s and not tape.rooms

    def run(self, attended: Attended) -> Played:
        """Play the program from a common start of all chips.

        Parameters
        ----------
        attended : sequence of (array, array)
            Of each attention: seconds, and seconds for which it keeps DRAM busy, shape (C, B).
        """
        zero: Seconds = np.zeros((*self._shape, attended[0][0].shape[1] if attended else 1))
        played, made = Played(zero, zero, zero), dict[tuple[int, ...], list[Action]]()
        known: dict[object, tuple[Seconds, Seconds]] = {}
        for key, charges in self._layers:
            if key not in made:
                made[key] = list(self._actions(charges, attended))
            if not self._is_relative:
                _play(made[key], played)
                continue
            base = played.now[:1, :1]
            begin = played.now - base
            state = key, begin.tobytes()
            if state not in known:
                layer = _play(made[key], Played(begin, zero, zero))
                known[state] = layer.now, np.concatenate(layer.ends)
            end, ends = known[state]
            played.now = base + end
            played.ends.append(base[0, 0, 0] + ends)
        return played

    def _actions(self, charges: Iterable[Charge], attended: Attended) -> Iterator[Action]:
        """Yield what a layer does; ops that follow each other are one."""
        for is_work, following in groupby(charges, lambda charge: isinstance(charge, Kernel)):
            if is_work:
                yield self._work([c for c in following if isinstance(c, Kernel)], attended)
                continue
            for charge in following:
                if isinstance(charge, Cross):
                    if id(charge) not in self._meetings:  # they do not depend on positions
                        self._meetings[id(charge)] = self._cross(charge)
                    yield self._meetings[id(charge)]
                elif isinstance(charge, Take):
                    yield self._take(charge)
                else:
                    yield _consumed

    def _work(self, kernels: Sequence[Kernel], attended: Attended) -> Action:
        """Add ops up: what they take, and how long after the host's first one they end at least."""
        gap_s, issue_s = self._tape.gap_s, self._tape.issue_s
        total_s: float | Seconds = 0.0
        issued_s: float | Seconds = -np.inf
        busy_s: float | Seconds = 0.0
        n_issued, ends, earliest = 0, [], []
        for kernel in kernels:
            if callable(kernel.seconds):
                columns_s, dram_s = attended[self._tape.numbers[id(kernel)]]
                seconds, busy_s = self._slowed(columns_s[None]), busy_s + dram_s
            else:
                seconds = self._slowed(kernel.seconds)
            total_s, issued_s = total_s + seconds, issued_s + seconds
            if kernel.has_gap:
                n_issued += 1
                total_s = total_s + gap_s
                issued_s = np.maximum(issued_s + gap_s, n_issued * issue_s)
            ends.append(_of_first(total_s))
            earliest.append(_of_first(issued_s))
        ends_of_first, earliest_of_first = np.array(ends), np.array(earliest)

        def work(played: Played) -> None:
            begin_s = played.now[0, 0, 0]
            played.now = played.now + total_s
            ends = begin_s + ends_of_first
            if issue_s:
                before_s = played.n_issued * issue_s
                played.now = np.maximum(played.now, before_s + issued_s)
                ends = np.maximum(ends, before_s + earliest_of_first)
            played.dram_free = played.dram_free + busy_s
            played.n_issued += n_issued
            played.ends.append(ends)

        return work

    def _take(self, take: Take) -> Action:
        """Wait for a weight; see `galaxy_mpi.timing.uniform_clock.UniformClock`."""
        rooms, seconds = self._tape.rooms, self._tape.read_s(take.n_bytes)

        def wait(played: Played) -> None:
            room = rooms[len(played.left)]
            begin = played.dram_free
            if room >= 0:
                begin = np.maximum(begin, played.left[room])
            played.dram_free = begin + seconds
            stall_s = np.maximum(0.0, played.dram_free - played.now)
            played.stall_s = played.stall_s + stall_s
            played.now = played.now + stall_s
            played.left.append(played.now)
            played.stalls.append(float(stall_s[0, 0, 0]))
            played.ends.append(played.now[0, 0, :1])

        return wait

    def _cross(self, cross: Cross) -> Action:
        """Go on when the data of the farthest and the nearest members has arrived."""
        axis, machine = cross.wire.axis, self._tape.costs.machine
        gap_s, issue_s = self._tape.gap_s, self._tape.issue_s
        far = hop_delays(machine, self._mesh.size(axis), cross.laps)
        near = near_delays(far)
        if axis is Axis.COLUMN and self._is_one_row:  # all rows enter together
            far, near = (reach[:1].max(axis=1)[:, None] for reach in (far, near))
        both = np.stack([far, near])  # (far or near, to, from)
        is_column = axis is Axis.COLUMN
        delays = both[:, :, :, None, None] if is_column else both[:, None, :, :, None]
        member = 2 if is_column else 3
        block_s = cross.wire_s if cross.block_s is None else cross.block_s
        # Of all data behind the farthest member's, and of the whole wire behind a neighbour's.
        sent_s = np.array([block_s, cross.wire_s]).reshape(2, 1, 1, 1)
        wires = self._wires[axis]
        if wires is not None:
            sent_s = array_in_ticks(sent_s * wires[None, :, :, None])
        own_s = self._slowed(cross.own_s) + gap_s
        beside_s = self._slowed(cross.beside_s) + gap_s
        is_alone, has_beside = both.shape[1] == 1, cross.beside_s > 0

        def meet(played: Played) -> None:
            now = played.now
            if is_alone:
                arrived = now[None] + delays[:, :, 0]
            else:
                entries = now[None, None] if is_column else now[None, :, None]
                arrived = np.maximum.reduce(entries + delays, axis=member)
            arrived += sent_s
            end = np.maximum(arrived[0], arrived[1]) + own_s
            if has_beside:
                end = np.maximum(end, now + beside_s)
            played.n_issued += 1
            if issue_s:
                end = np.maximum(end, played.n_issued * issue_s)
            played.now = end
            played.ends.append(end[0, 0, :1])

        return meet

    def _slowed(self, seconds: float | Seconds) -> float | Seconds:
        """Return the seconds of an op on each chip."""
        if self._factor is None:
            return seconds
        return array_in_ticks(seconds * self._factor[:, :, None])


def _by_layer(tape: Tape) -> Iterator[Iterator[Charge]]:
    """Yield the charges of each layer, and of what comes before and after."""
    pairs = zip(tape.uses, tape.charges, strict=True)
    for _, of_layer in groupby(pairs, lambda pair: pair[0].layer):
        yield (charge for _, charge in of_layer)


def _play(actions: Iterable[Action], played: Played) -> Played:
    for action in actions:
        action(played)
    return played


def _consumed(played: Played) -> None:
    """Let the weight taken last leave the circular buffers."""
    played.left[-1] = played.now


def _of_first(seconds: float | Seconds) -> float:
    """Return the seconds of chip (0, 0) in the first step."""
    return float(np.ravel(seconds)[0])
