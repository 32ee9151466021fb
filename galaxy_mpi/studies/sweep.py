"""Estimates for the values of an option, or of two: rows, a table, plots.

Two options make a grid: every value of the first with every value of the second. A point that
cannot be estimated is a row without figures, with the reason below the table.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from galaxy_mpi.errors import ConfigError, refuse_twice
from galaxy_mpi.json_values import JsonObject, JsonView
from galaxy_mpi.output import folded
from galaxy_mpi.plot import Panel, panels_png
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.studies.what_if_checks import NeverError

__all__ = ["SCHEMA_VERSION", "Sweep"]

SCHEMA_VERSION = 1

MOST_POINTS = 1000

FIGURES = (
    "decode_step_s",
    "tokens_per_s_per_user",
    "tokens_per_s",
    "time_to_first_token_s",
    "prefetch_stall_s",
    "decode_step_s_margin",
    "time_to_first_token_s_margin",
)

Row = JsonObject

_PLOTTED = (
    ("decode_step_s", "decode step (ms)", 1e3),
    ("tokens_per_s_per_user", "tokens/s/user", 1.0),
    ("tokens_per_s", "tokens/s, all users", 1.0),
    ("time_to_first_token_s", "time to first token (ms)", 1e3),
    ("prefetch_stall_s", "prefetch stall (us a step)", 1e6),
)


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep.

    Parameters
    ----------
    values : mapping of str to list of str
        Of each option, one or two.
    points : mapping of tuple of str to WhatIf or str
        The estimate of each combination, in the order of the options; or why there is none.
    """

    values: Mapping[str, list[str]]
    points: Mapping[tuple[str, ...], WhatIf | str]

    @classmethod
    def parse(
        cls,
        texts: Sequence[str],
        not_swept: Sequence[str],
        of_words: Callable[[list[str]], Callable[[], WhatIf]],
    ) -> "Sweep":
        """Parse ``KEY=A,B,C`` once or twice.

        Parameters
        ----------
        texts : sequence of str
        not_swept : sequence of str
            Options that cannot be swept.
        of_words : callable
            Parses the command line with more words appended, and returns what estimates it.

        Raises
        ------
        ConfigError
            If a text is no such thing, a value can never be, or no point can be estimated.
        """
        values: dict[str, list[str]] = {}
        refuse_twice("--sweep", [text.partition("=")[0].lstrip("-") for text in texts])
        for text in texts:
            key, _, listed = text.partition("=")
            key = key.lstrip("-")
            if not listed or key in not_swept:
                raise ConfigError(
                    f"--sweep takes an option and its values, for example links=1,2,3,4; "
                    f"got {text!r}"
                )
            values[key] = list(dict.fromkeys(listed.split(",")))
        if len(values) > 2:
            raise ConfigError(f"--sweep takes at most two options, got {', '.join(values)}")
        n_points = math.prod(map(len, values.values()))
        if n_points > MOST_POINTS:
            raise ConfigError(f"--sweep takes at most {MOST_POINTS} points, got {n_points}")
        points: dict[tuple[str, ...], WhatIf | str] = {}
        for chosen in product(*values.values()):
            words = [f"--{key}={value}" for key, value in zip(values, chosen, strict=True)]
            estimated = of_words(words)
            try:
                points[chosen] = estimated()
            except NeverError:
                raise
            except ConfigError as error:  # of this point only
                points[chosen] = str(error)
        if all(isinstance(point, str) for point in points.values()):
            raise ConfigError(str(next(iter(points.values()))))
        return cls(values, points)

    def rows(self) -> list[Row]:
        """Return a row for each point: the values of the options, figures, ``not_estimated``."""
        rows = []
        for chosen, point in self.points.items():
            told: JsonView = (
                dict.fromkeys(FIGURES) if isinstance(point, str) else point.report["device"]
            )
            row = dict(zip(self.values, chosen, strict=True)) | {n: told[n] for n in FIGURES}
            rows.append(row | {"not_estimated": point if isinstance(point, str) else ""})
        return rows

    def to_dict(self, run: JsonView) -> JsonObject:
        """Return what ``--json`` writes; see docs/json.md."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": dict(run),
            "sweep": dict(self.values),
            "rows": self.rows(),
        }

    def csv(self) -> str:
        """Return the rows as CSV."""
        rows, text = self.rows(), io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def table(self) -> str:
        """Return the rows for people."""
        widths = {key: max(len(key), *map(len, values)) + 2 for key, values in self.values.items()}
        heads = "".join(f"{key:<{width}}" for key, width in widths.items())
        lines = [
            f"{heads}{'step ms':>9}{'+-':>5}{'tok/s/user':>12}{'tok/s':>9}"
            f"{'TTFT ms':>10}{'+-':>5}{'stall us':>10}"
        ]
        reasons: list[str] = []
        for row in self.rows():
            begin = "".join(f"{row[key]:<{width}}" for key, width in widths.items())
            if row["not_estimated"]:
                what = ", ".join(row[key] for key in self.values)
                reasons.append(folded(f"{what}: {row['not_estimated']}"))
                lines.append(begin + "".join(f"{'-':>{n}}" for n in (9, 5, 12, 9, 10, 5, 10)))
                continue
            lines.append(
                f"{begin}{row['decode_step_s'] * 1e3:>9.3f}"
                f"{row['decode_step_s_margin']:>5.0%}{row['tokens_per_s_per_user']:>12.2f}"
                f"{row['tokens_per_s']:>9.1f}{row['time_to_first_token_s'] * 1e3:>10.1f}"
                f"{row['time_to_first_token_s_margin']:>5.0%}"
                f"{row['prefetch_stall_s'] * 1e6:>10.1f}"
            )
        return "\n".join([*lines, *reasons])

    def named_rows(self) -> tuple[str, list[Row]]:
        """Return rows with one column for all options, and its name."""
        name = " x ".join(self.values)
        return name, [{name: ", ".join(row[k] for k in self.values)} | row for row in self.rows()]

    def plot(self, title: str, suffix: str) -> bytes:
        """Draw each figure in a panel of its own, with its band where it has one.

        The values of the first option lie along the axis; each of the second is a line. A point
        that could not be estimated is a gap.

        Raises
        ------
        ConfigError
            If matplotlib is not installed.
        """
        first, *others = self.values
        lines = [(f"{key} {v}", key, v) for key in others for v in self.values[key]]
        rows = self.rows()
        panels = []
        for name, label, factor in _PLOTTED:
            drawn: dict[str, list[list[float]]] = {}
            for legend, key, value in lines or [(name.removesuffix("_s"), "", "")]:
                of_line = [row for row in rows if not key or row[key] == value]
                drawn[legend] = [_ends(of_line, name, factor, side) for side in (0, -1, 1)]
            panels.append(Panel(label, drawn))
        return panels_png(title, first, self.values[first], panels, suffix)


def _ends(rows: Sequence[Row], name: str, factor: float, side: int) -> list[float]:
    """Return a figure of each row, or an end of its band."""
    found = []
    for row in rows:
        value = math.nan if row[name] is None else row[name] * factor
        margin = row.get(f"{name}_margin") or 0.0
        found.append(value * (1 + side * margin))
    return found
