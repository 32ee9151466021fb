"""What a search found: for people, as JSON and as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from galaxy_mpi.engine.quality import Quality
from galaxy_mpi.studies.candidates import Candidate, named_formats
from galaxy_mpi.studies.goals import Goal
from galaxy_mpi.studies.pareto_search import Point, front_of
from galaxy_mpi.systems.optimizations import TENSOR_GROUPS

__all__ = ["Found"]

_BITS = {"bf16": 16, "bfp8": 8, "bfp4": 4}

_HEADS = {"ff1_3": "ff1_3", "ff2": "ff2", "wqkv": "wqkv", "wo": "wo", "kv_cache": "kv"}


@dataclass(frozen=True)
class Found:
    """The points of a search.

    Parameters
    ----------
    points : sequence of Point
    metric : str
        Of the front.
    goals : sequence of Goal
    answer : Point or None
        The fastest that meets the goals.
    reference : Quality
        Of the float32 run itself.
    """

    points: Sequence[Point]
    metric: str
    goals: Sequence[Goal]
    answer: Point | None
    reference: Quality

    @property
    def front(self) -> list[Point]:
        """The points that no other is both faster and better than, the fastest first."""
        return front_of(self.points, self.metric)

    def table(self) -> str:
        """Return the front, then what has a name, at most 80 columns wide."""
        front = self.front
        others = [p for p in self.points if p.name and p not in front]
        if self.answer is not None and self.answer not in (*front, *others):
            others.append(self.answer)
        bits = "".join(f"{_HEADS[group]:>6}" for group in _HEADS)
        lines = [
            f"{'bits of':>{_FIGURES_WIDTH}}",
            f"   {'step us':>9}{'top-1':>7}{'top-5':>7}{'PCC':>9}{'perplexity':>12}{bits}",
            *(self._line(point) for point in front),
        ]
        if others:
            lines += ["not on the front:", *(self._line(point) for point in others)]
        marks = [
            f"{mark}: {what}"
            for mark, what in _MARKS.items()
            if any(mark in self._mark(p) for p in (*front, *others))
        ]
        return "\n".join([*lines, *([", ".join(marks)] if marks else [])])

    def _line(self, point: Point) -> str:
        q, bits = point.quality, "".join(f"{told:>6}" for told in _bits(point.candidate))
        return (
            f"{self._mark(point):<3}{point.cost.decode_step_s * 1e6:>9.2f}{q.top1:>7.1%}"
            f"{q.top5:>7.1%}{q.pcc:>9.5f}{q.perplexity:>12.3f}{bits}"
        )

    def _mark(self, point: Point) -> str:
        return (">" if point is self.answer else "") + point.name[:1].upper()

    def to_dict(self) -> dict[str, Any]:
        """Return what the report says of the points."""
        front = self.front
        return {
            "metric": self.metric,
            "reference": self.reference.to_dict(),
            "targets": [str(goal) for goal in self.goals],
            "answer": None if self.answer is None else self.points.index(self.answer),
            "points": [
                {
                    "name": point.name or None,
                    "is_on_front": point in front,
                    "formats": named_formats(point.candidate),
                    **point.quality.to_dict(),
                    **point.cost.to_dict(),
                }
                for point in self.points
            ],
        }

    def to_csv(self) -> str:
        """Return a row for each point, the fastest first."""
        front, text = self.front, io.StringIO()
        rows = []
        for point in sorted(self.points, key=lambda p: p.cost.decode_step_s):
            figures = point.quality.to_dict() | point.cost.to_dict()
            links = figures.pop("link_bytes")
            figures |= {f"link_bytes_{axis}": n_bytes for axis, n_bytes in links.items()}
            shown = dict(zip(TENSOR_GROUPS, _words(point.candidate), strict=True))
            rows.append({"name": point.name, "is_on_front": int(point in front)} | figures | shown)
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


_MARKS = {">": "the answer to --target", "P": "performance", "A": "accuracy"}

_FIGURES_WIDTH = 3 + 9 + 7 + 7 + 9 + 12 + 7


def _bits(candidate: Candidate) -> list[str]:
    """Return the mean bits over the layers of each group with a column."""
    told = []
    for group in _HEADS:
        bits = [_BITS[dict(layer)[group]] for layer in candidate.layers]
        mean = sum(bits) / len(bits)
        told.append(f"{mean:.0f}" if len(set(bits)) == 1 else f"{mean:.1f}")
    return told


def _words(candidate: Candidate) -> list[str]:
    """Return each group's format; where layers differ, all of them with a ``+`` between."""
    words = []
    for value in named_formats(candidate).values():
        words.append(value if isinstance(value, str) else "+".join(value))
    return words
