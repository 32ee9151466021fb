"""What a search found: for people, as JSON and as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.measuring import Measuring
from galaxy_mpi.engine.quality import Quality
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.plot import front_png
from galaxy_mpi.studies.candidates import Candidate, named_formats
from galaxy_mpi.studies.goals import Goal
from galaxy_mpi.studies.pareto_search import Point, front_of
from galaxy_mpi.studies.target_clock import TargetClock
from galaxy_mpi.systems.optimizations import TENSOR_GROUPS

__all__ = ["Found"]

_BITS = {"bf16": 16, "bfp8": 8, "bfp4": 4, "mixed": 0}

_COLUMNS = {"ff1_3": 6, "ff2": 5, "wqkv": 5, "wo": 5, "kv_cache": 5, "activation": 5}
"""Width of each group's column."""

_HEADS = {"kv_cache": "kv", "activation": "act"}
"""Of columns that are not called like their group."""


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
    run : RunConfig
        That measured.
    clock : TargetClock
    measuring : Measuring
    n_not_fitting : int
        Combinations that do not fit a chip of the target.
    """

    points: Sequence[Point]
    metric: str
    goals: Sequence[Goal]
    answer: Point | None
    run: RunConfig
    clock: TargetClock
    measuring: Measuring
    n_not_fitting: int

    @property
    def front(self) -> list[Point]:
        """The points that no other is both faster and better than, the fastest first."""
        return front_of(self.points, self.metric)

    @property
    def target_mesh(self) -> str:
        """That of the device time."""
        return str(self.clock.what_if.programs.asked_mesh)

    @property
    def reference(self) -> Quality:
        """Of the float32 run itself."""
        quality = self.measuring.reference.quality
        assert quality is not None
        return quality

    def table(self) -> str:
        """Return a heading, the front, and the named points, at most 80 columns wide."""
        target, reference = self.clock.what_if, self.reference
        front = self.front
        others = [p for p in self.points if p.name and p not in front]
        if self.answer is not None and self.answer not in (*front, *others):
            others.append(self.answer)
        bits = "".join(f"{_HEADS.get(group, group):>{width}}" for group, width in _COLUMNS.items())
        lines = [
            f"{self.run.model}, {self.measuring.n_layers} layers; {self.run.system_name}; "
            f"{reference.positions} positions, perplexity {reference.perplexity:.3f} in float32",
            f"device time of {self.target_mesh}, {target.machine}: {target.n_users} users, "
            f"{target.input_tokens} + {target.n_steps} tokens, +-{self.clock.margin:.0%}",
            "",
            f"{'bits of':>{_FIGURES_WIDTH}}",
            f"   {'step us':>9}{'top-1':>7}{'top-5':>7}{'PCC':>9}{'perplexity':>11}{bits}",
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
        q, bits = point.quality, "".join(_bits(point.candidate))
        return (
            f"{self._mark(point):<3}{point.cost.decode_step_s * 1e6:>9.2f}{q.top1:>7.1%}"
            f"{q.top5:>7.1%}{q.pcc:>9.5f}{q.perplexity:>11.3f}{bits}"
        )

    def _mark(self, point: Point) -> str:
        return (">" if point is self.answer else "") + point.name[:1].upper()

    def remarks(self) -> list[str]:
        """Return lines about what was done, and what is to be kept in mind."""
        measuring = self.measuring
        share = measuring.passes.n_layers_run / (measuring.n_passes * measuring.n_layers)
        lines = [
            f"{len(self.points)} formats in {measuring.n_passes} passes, {share:.0%} of their "
            f"layers run"
        ]
        if self.n_not_fitting:
            lines.append(f"{self.n_not_fitting} combinations do not fit a chip of the target")
        measured = self.run.emulated_system.formats.name
        wanted = self.clock.what_if.emulated_system.formats.name
        if measured != wanted and self.run.formats is None:
            lines += [
                f"activations were measured as a {self.run.mesh} mesh stores them (table "
                f"{measured!r}),",
                f"the target stores them as table {wanted!r}: --formats {wanted} does so for both",
            ]
        return lines

    def to_dict(self, said: JsonObject) -> JsonObject:
        """Return the report.

        Parameters
        ----------
        said : dict
            What ``run`` says of the command.
        """
        front, target, measuring = self.front, self.clock.what_if, self.measuring
        machine = asdict(target.programs.on(target.emulated_machine))
        return {
            "schema_version": 1,
            "run": said | {"machine": machine, "checksums": measuring.checksums},
            "model": self.run.model,
            "mesh": str(self.run.mesh),
            "system": self.run.system_name,
            "tokens": self.reference.positions,
            "target": {
                "mesh": self.target_mesh,
                "machine": target.machine,
                "constants": list(target.constants),
                "users": target.n_users,
                "input_tokens": target.input_tokens,
                "new_tokens": target.n_steps,
                "decode_step_s_margin": self.clock.margin,
            },
            "passes": measuring.n_passes,
            "layers_run": measuring.passes.n_layers_run,
            "not_fitting": self.n_not_fitting,
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
            figures: JsonObject = {**point.quality.to_dict(), **point.cost.to_dict()}
            links = figures.pop("link_bytes")
            figures |= {f"link_bytes_{axis}": n_bytes for axis, n_bytes in links.items()}
            shown = dict(zip(TENSOR_GROUPS, _words(point.candidate), strict=True))
            rows.append({"name": point.name, "is_on_front": int(point in front)} | figures | shown)
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_png(self) -> bytes:
        """Return a picture of all points, with the front as a line."""
        scale = 100.0 if self.metric.startswith("top") else 1.0
        unit = " (%)" if scale > 1 else ""

        def place(point: Point) -> tuple[float, float]:
            return point.cost.decode_step_s * 1e6, scale * getattr(point.quality, self.metric)

        named = {point.name: place(point) for point in self.points if point.name}
        if self.answer is not None:
            named.pop(self.answer.name, None)
            told = [self.answer.name, *map(str, self.goals)]
            named[", ".join(filter(None, told))] = place(self.answer)
        return front_png(
            f"{self.run.model}: formats on {self.target_mesh}",
            "decode step (us of device time)",
            f"{self.metric}{unit}",
            [place(point) for point in self.points],
            [place(point) for point in self.front],
            named,
        )


_MARKS = {">": "the answer to --target", "P": "performance", "A": "accuracy"}

_FIGURES_WIDTH = 3 + 9 + 7 + 7 + 9 + 11 + 7


def _bits(candidate: Candidate) -> list[str]:
    """Return the column of each group: the mean bits over the layers."""
    told = []
    for group, width in _COLUMNS.items():
        names = [dict(layer)[group] for layer in candidate.layers]
        mean = sum(_BITS[name] for name in names) / len(names)
        text = f"{mean:.0f}" if len(set(names)) == 1 else f"{mean:.1f}"
        if "mixed" in names:
            text = "mix" if len(set(names)) == 1 else "some"
        told.append(f"{text:>{width}}")
    return told


def _words(candidate: Candidate) -> list[str]:
    """Return each group's format; where layers differ, all of them with a ``+`` between."""
    words = []
    for value in named_formats(candidate).values():
        words.append(value if isinstance(value, str) else "+".join(value))
    return words
