"""Which formats are worth measuring, and which of those measured are on the front.

Device time is known before anything is measured, for every candidate. Accuracy is not, and takes a
pass over the text. So the search measures each change by itself, against the candidate with the
most bits; adds what the changes lose (`Quality.kl`, which is nearly additive where it is small)
to predict all combinations; and measures those that are on the predicted front. What it reports
is measured, never predicted.

Layer by layer, a step to fewer bits in one group of one layer is a change. They are taken in the
order of what they lose for the device time that they save, so the most sensitive ones keep their
bits longest. The way from the most bits to the fewest is measured at some places.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from galaxy_mpi.engine.quality import Quality
from galaxy_mpi.studies.candidates import Candidate, Grid
from galaxy_mpi.studies.goals import Goal, merit
from galaxy_mpi.studies.target_clock import Cost

__all__ = ["Measure", "Point", "Search", "front_of"]

_SLACK = 1.5
"""A candidate may be predicted to lose so many times what the answer lost and still be tried."""

_MOST_TRIES = 16
"""Candidates faster than the answer that are tried for a target."""

_WAY_PLACES = 16
"""Places of the way from the most bits to the fewest that are measured."""


class Measure(Protocol):
    """Measures a candidate on the ranks."""

    def __call__(self, candidate: Candidate, *, keeps: bool = False) -> Quality:
        """Return its figures; see `galaxy_mpi.engine.forced_pass.ForcedPass.logits`."""


@dataclass(frozen=True)
class Point:
    """A candidate that was measured."""

    candidate: Candidate
    quality: Quality
    cost: Cost
    name: str = ""
    """``performance`` or ``accuracy`` where it is what the system means by that."""


class Search:
    """Measures candidates of a grid and keeps what it finds.

    Parameters
    ----------
    grid : Grid
    measure : Measure
    cost : callable
        Returns the `Cost` of a candidate.
    goals : sequence of Goal
        All of which the answer must meet; may be none.
    """

    def __init__(
        self,
        grid: Grid,
        measure: Measure,
        cost: Callable[[Candidate], Cost],
        goals: Sequence[Goal] = (),
    ) -> None:
        self._grid, self._measure, self._clock, self._goals = grid, measure, cost, goals
        self._costs: dict[Candidate, Cost] = {}
        self._qualities: dict[Candidate, Quality] = {}
        self.n_not_fitting = 0
        """Combinations of the grid that do not fit a chip of the target."""

    def points(self, names: dict[Candidate, str]) -> list[Point]:
        """Return what was measured and fits the target, in the order in which it was measured."""
        return [
            Point(candidate, quality, cost, names.get(candidate, ""))
            for candidate, quality in self._qualities.items()
            if (cost := self.cost(candidate)).fits
        ]

    def cost(self, candidate: Candidate) -> Cost:
        """Return the cost of a candidate, computed once."""
        if candidate not in self._costs:
            self._costs[candidate] = self._clock(candidate)
        return self._costs[candidate]

    def quality(self, candidate: Candidate, *, keeps: bool = False) -> Quality:
        """Return the figures of a candidate, measured once."""
        if candidate not in self._qualities:
            self._qualities[candidate] = self._measure(candidate, keeps=keeps)
        return self._qualities[candidate]

    def by_group(self, *, is_exhaustive: bool = False) -> None:
        """Measure the combinations that are worth it; all of them if that is asked for."""
        fitting = [c for c in self._grid.candidates() if self.cost(c).fits]
        self.n_not_fitting = sum(1 for _ in self._grid.candidates()) - len(fitting)
        base = self._grid.most_bits
        self.quality(base, keeps=True)
        if is_exhaustive:
            for candidate in fitting:
                self.quality(candidate)
            return
        lost = self._lost_by_group()
        predicted = {candidate: self._predicted(candidate, lost) for candidate in fitting}
        for candidate in _front(fitting, self._step_s, lambda c: -predicted[c]):
            self.quality(candidate)
        if self._goals:
            self._try_faster(predicted)

    def by_layer(self) -> None:
        """Measure places on the way from the most bits to the fewest, layer by layer."""
        way = self._way()
        if not way:
            return
        n = len(way)
        places = sorted({round(i * n / _WAY_PLACES) for i in range(1, _WAY_PLACES + 1)} - {0})
        for place in places:
            self.quality(way[place - 1], keeps=True)
        if not self._goals:
            return
        # The fastest place that meets the goals lies between the last that does and the next.
        good = max((p for p in places if self._is_met(way[p - 1])), default=0)
        bad = next((p for p in places if p > good), n + 1)
        while bad - good > 1:
            middle = (good + bad) // 2
            self.quality(way[middle - 1], keeps=True)
            good, bad = (middle, bad) if self._is_met(way[middle - 1]) else (good, middle)

    def answer(self, points: Iterable[Point]) -> Point | None:
        """Return the fastest point that meets all goals, the most accurate of equally fast."""
        meeting = [p for p in points if all(goal.is_met(p.quality) for goal in self._goals)]
        return min(meeting, key=lambda p: (p.cost.decode_step_s, p.quality.kl), default=None)

    def _is_met(self, candidate: Candidate) -> bool:
        quality = self._qualities[candidate]
        return all(goal.is_met(quality) for goal in self._goals)

    def _step_s(self, candidate: Candidate) -> float:
        return self.cost(candidate).decode_step_s

    def _lost_by_group(self) -> dict[tuple[str, str], float]:
        """Return what each format of a group loses if it alone is changed, in every layer."""
        best = self.quality(self._grid.most_bits).kl
        lost = {(group, names[0]): 0.0 for group, names in self._grid.tried}
        for group, name in self._grid.changes():
            found = self.quality(self._grid.with_change(group, name))
            lost[group, name] = max(0.0, found.kl - best)
        return lost

    def _predicted(self, candidate: Candidate, lost: dict[tuple[str, str], float]) -> float:
        return self.quality(self._grid.most_bits).kl + sum(lost[c] for c in candidate.layers[0])

    def _try_faster(self, predicted: dict[Candidate, float]) -> None:
        """Measure what could meet the goals and is faster than what does, the likeliest first."""
        for _ in range(_MOST_TRIES):
            answer = self.answer(self.points({}))
            left = [c for c in predicted if c not in self._qualities]
            if answer is not None:
                left = [
                    c
                    for c in left
                    if self._step_s(c) < answer.cost.decode_step_s
                    and predicted[c] <= _SLACK * answer.quality.kl
                ]
            if not left:
                return
            self.quality(min(left, key=lambda c: (predicted[c], self._step_s(c))))

    def _way(self) -> list[Candidate]:
        """Return candidates with one change more each, the least harmful for its time first."""
        grid, base = self._grid, self._grid.most_bits
        best, n_layers = self.quality(base, keeps=True).kl, len(base.layers)
        saved_s = self._saved_s()
        changes: list[tuple[float, int, str, str]] = []
        for layer in range(n_layers):
            for group, names in grid.tried:
                hull = [(0.0, 0.0)]  # saved seconds, what is lost
                taken: list[tuple[float, str]] = []
                for name in names[1:]:
                    if saved_s[group, name] <= 0:
                        continue
                    found = self.quality(base.but(layer, group, name)).kl
                    point = (saved_s[group, name] / n_layers, max(0.0, found - best))
                    if point[0] <= hull[-1][0]:
                        continue
                    # A step that loses less for its time than the one before replaces it.
                    while taken and _slope(hull[-1], point) <= taken[-1][0]:
                        hull.pop()
                        taken.pop()
                    taken.append((_slope(hull[-1], point), name))
                    hull.append(point)
                changes += [(slope, layer, group, name) for slope, name in taken]
        way, candidate = [], base
        for _, layer, group, name in sorted(changes, key=lambda change: change[0]):
            candidate = candidate.but(layer, group, name)
            if self.cost(candidate).fits:
                way.append(candidate)
        return way

    def _saved_s(self) -> dict[tuple[str, str], float]:
        """Return the device time that each format of a group saves, in all layers together."""
        before = self._step_s(self._grid.most_bits)
        return {
            (group, name): before - self._step_s(self._grid.with_change(group, name))
            for group, name in self._grid.changes()
        }


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _front(
    candidates: Iterable[Candidate],
    seconds: Callable[[Candidate], float],
    value: Callable[[Candidate], float],
) -> list[Candidate]:
    """Return the candidates that nothing is both faster and better than, the fastest first."""
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (seconds(c), -value(c))):
        if not found or value(candidate) > value(found[-1]):
            found.append(candidate)
    return found


def front_of(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the points that no other is both faster and better than, the fastest first.

    Of points that are equally fast and good, the one with the least divergence.
    """
    found: list[Point] = []
    best = float("-inf")
    order = sorted(
        points,
        key=lambda p: (p.cost.decode_step_s, -merit(metric, p.quality), p.quality.kl),
    )
    for point in order:
        if merit(metric, point.quality) > best:
            best = merit(metric, point.quality)
            found.append(point)
    return found
