"""Every interleaving of small programs: nobody reads what is not yet, or no longer, there.

The steps of a crossing are those of `galaxy_mpi.mesh.crossing` and of the planes; the barrier and
the signals are taken to do what POSIX says. Memory is checked where it is read. Each rule is also
taken away once, to see that this test would signal.
"""

import pytest

from galaxy_mpi.mesh.plane import RoundPeers, slot_of
from galaxy_mpi.mesh.rounds import begins_at_once, spreads


class OverwrittenError(Exception):
    """A process read something else than was meant for it."""


def explore(processes):
    """Run straight-line processes in every order.

    Steps: ("write", place, value), ("read", place, value), ("arrive",), ("leave", n): when all have
    arrived n times, ("post", name), ("take", name).
    """
    size = len(processes)
    seen, todo = set(), [((0,) * size, (), 0, ())]
    ended = 0
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        places, memory, arrived, posted = state
        moved = False
        for process, place in enumerate(places):
            if place == len(processes[process]):
                continue
            step = processes[process][place]
            values, signals, n_arrived = dict(memory), dict(posted), arrived
            if step[0] == "write":
                values[step[1]] = step[2]
            elif step[0] == "read":
                if values.get(step[1]) != step[2]:
                    raise OverwrittenError(f"{process}: {step}, found {values.get(step[1])}")
            elif step[0] == "arrive":
                n_arrived += 1
            elif step[0] == "leave":
                if n_arrived < step[1] * size:
                    continue
            elif step[0] == "post":
                signals[step[1]] = signals.get(step[1], 0) + 1
            elif step[0] == "take":
                if not signals.get(step[1]):
                    continue
                signals[step[1]] -= 1
            moved = True
            after = (*places[:process], place + 1, *places[process + 1 :])
            todo.append(
                (after, tuple(sorted(values.items())), n_arrived, tuple(sorted(signals.items())))
            )
        if not moved:
            assert all(p == len(steps) for p, steps in zip(places, processes, strict=True)), "stuck"
            ended += 1
    assert ended


class Process:
    """The steps of one process."""

    def __init__(self, me, size, *, slot=slot_of, n_turns=2):
        self.me, self.size, self.slot, self.n_turns = me, size, slot, n_turns
        self.steps, self.turn = [], 0

    def barrier(self, label):
        self.turn += 1
        place = self.turn % self.n_turns
        self.steps += [
            ("write", ("label", place, self.me), label),
            ("arrive",),
            ("leave", self.turn),
            *(("read", ("label", place, other), label) for other in range(self.size)),
        ]

    def table(self, run, number):
        slot = self.slot(number)
        self.steps.append(("write", ("row", slot, self.me), (run, number, self.me)))
        self.barrier((run, number))
        for other in range(self.size):
            if other != self.me:
                self.steps.append(("read", ("row", slot, other), (run, number, other)))

    def boxes(self, run, number, rounds):
        slot = self.slot(number)
        for n, peers in enumerate(rounds[self.me]):
            for peer in peers.sends:
                value = (run, number, n, self.me)
                self.steps.append(("write", ("box", slot, n, self.me, peer), value))
            self.steps += [("post", (self.me, peer)) for peer in peers.sends]
            self.steps += [("take", (peer, self.me)) for peer in peers.receives]
            for peer in peers.receives:
                value = (run, number, n, peer)
                self.steps.append(("read", ("box", slot, n, peer, self.me), value))


def ring(size):
    return tuple(
        tuple(RoundPeers(((m + 1) % size,), ((m - 1) % size,)) for _ in range(size - 1))
        for m in range(size)
    )


def play(programs, size, *, closes=True, rounds=None, **rules):
    """Return the processes that run programs of tables ("t") and boxes ("b")."""
    rounds = rounds or ring(size)
    processes = [Process(me, size, **rules) for me in range(size)]
    for process in processes:
        for run, program in enumerate(programs):
            for number, kind in enumerate(program):
                if kind == "t":
                    process.table(run, number)
                else:
                    process.boxes(run, number, rounds)
                    if not spreads(rounds) and closes:
                        process.barrier((run, number, "spread"))
            if len(program) == 1 and closes:
                process.barrier((run, "end"))
    return [process.steps for process in processes]


@pytest.mark.parametrize(
    ("programs", "size"),
    [
        (["tttt", "ttt"], 2),
        (["t", "t", "t"], 2),
        (["tt", "tt", "ttt"], 2),
        (["ttt", "tt"], 3),
        (["t", "t"], 3),
        (["bb", "tb"], 2),
        (["btb", "bb"], 2),
        (["bb", "b"], 3),
        (["tb", "bt"], 3),
    ],
)
def test_rows_boxes_and_labels_are_there_when_they_are_read(programs, size):
    explore(play(programs, size))


def test_two_slots_would_not_do_where_programs_of_odd_length_follow_each_other():
    with pytest.raises(OverwrittenError, match="row"):
        explore(play(["ttt", "ttt"], 2, slot=lambda number: number % 2))


def test_a_program_of_one_collective_needs_the_barrier_behind_it():
    with pytest.raises(OverwrittenError, match="row"):
        explore(play(["t", "t"], 2, closes=False))


def test_labels_need_two_turns():
    with pytest.raises(OverwrittenError, match="label"):
        explore(play(["ttt"], 2, n_turns=1))


def test_rounds_that_do_not_tell_everybody_of_everybody_need_a_barrier():
    one_way = ((RoundPeers((1,), ()),), (RoundPeers((), (0,)),))
    assert spreads(ring(2))
    assert spreads(ring(3))
    assert not spreads(one_way)
    explore(play(["bbb", "bb"], 2, rounds=one_way))
    with pytest.raises(OverwrittenError, match="box"):
        explore(play(["bbb", "bb"], 2, rounds=one_way, closes=False))


def test_a_relay_that_comes_to_a_neighbour_later_is_not_one_call():
    late = ((RoundPeers((1,), ()), RoundPeers((), ())), (RoundPeers((), (0,)), RoundPeers((), ())))
    assert begins_at_once(ring(3))
    assert begins_at_once(late)
    assert not begins_at_once(tuple(of_member[::-1] for of_member in late))
