"""Traffic for several values of an option: one row each, and a plot."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import Json, JsonObject, JsonView
from galaxy_mpi.plot import Panel, panels_png
from galaxy_mpi.serving.report import aligned
from galaxy_mpi.serving.traffic import Day, Traffic
from galaxy_mpi.studies.what_if import WhatIf

__all__ = ["FIGURES", "Row", "Sweep", "row_of"]

SCHEMA_VERSION = 1

MOST_SWEPT = 100

NOT_SWEPT = ("csv", "json", "plot", "report", "sweep", "help", "with-values", "transport",
             "wait-timeout", "chips-per-rank", "weights-cache", "no-prefetch", "no-prefix-cache",
             "allow-over-budget")  # fmt: skip

FIGURES = (
    "concurrency",
    "ttft_mean_s",
    "ttft_p50_s",
    "ttft_p90_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "tpot_p50_s",
    "tpot_p90_s",
    "tpot_p99_s",
    "e2e_mean_s",
    "e2e_p99_s",
    "tokens_per_s_per_user",
    "tokens_per_s",
    "requests_per_s",
    "goodput_requests_per_s",
    "goodput_share",
)
"""Columns of a row; those with ``_low`` and ``_high`` appended are the ends of the band."""

Row = JsonObject


@dataclass(frozen=True)
class Sweep:
    """Traffic by value of an option; the reason instead, if a value cannot be used."""

    key: str
    values: dict[str, Traffic | str]

    @classmethod
    def parse(cls, text: str, traffic_of: Callable[..., Traffic]) -> "Sweep":
        """Parse ``KEY=A,B,C``.

        Parameters
        ----------
        text : str
        traffic_of : callable
            Returns the traffic of the command line with more words appended.

        Raises
        ------
        ConfigError
            If it cannot be parsed, or no value can be used.
        """
        key, _, rest = text.partition("=")
        key, words = key.lstrip("-"), list(dict.fromkeys(rest.split(",")))
        if not rest or key in NOT_SWEPT or len(words) > MOST_SWEPT:
            raise ConfigError(
                f"--sweep takes an option and 1 to {MOST_SWEPT} values, for example rate=1,2,3; "
                f"got {text[:80]!r}"
            )
        found: dict[str, Traffic | str] = {}
        for word in words:
            try:
                found[word] = traffic_of(f"--{key}", word)
            except ConfigError as error:  # of this point only
                found[word] = str(error)
        known = [each for each in found.values() if isinstance(each, Traffic)]
        if not known:
            raise ConfigError(str(next(iter(found.values()))))
        return cls(key, _sharing(found))

    def rows(self) -> list[Row]:
        """Simulate all values; return one row each."""
        rows = []
        for value, traffic in self.values.items():
            known = row_of(traffic.day()) if isinstance(traffic, Traffic) else _nothing()
            reason = traffic if isinstance(traffic, str) else ""
            rows.append({self.key: value} | known | {"not_played": reason})
        return rows

    def to_dict(self, rows: Sequence[Row], run: JsonView) -> JsonObject:
        """Return the content of ``--json``; see docs/traffic.md."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": dict(run),
            "sweep": {self.key: list(self.values)},
            "rows": list(rows),
        }

    def table(self, rows: Sequence[Row]) -> str:
        """Return the rows for people."""
        columns = (
            ("mean", "users", "concurrency", 1, 1),
            ("TTFT", "p50 ms", "ttft_p50_s", 1e3, 0),
            ("TTFT", "p99 ms", "ttft_p99_s", 1e3, 0),
            ("TPOT", "p50 ms", "tpot_p50_s", 1e3, 1),
            ("TPOT", "p99 ms", "tpot_p99_s", 1e3, 1),
            ("tok/s", "/user", "tokens_per_s_per_user", 1, 1),
            ("", "tok/s", "tokens_per_s", 1, 1),
            ("", "req/s", "requests_per_s", 1, 2),
            ("", "good/s", "goodput_requests_per_s", 1, 2),
        )
        lines = [["", *(above for above, *_ in columns)]]
        lines.append([self.key, *(label for _, label, *_ in columns)])
        for row in rows:
            for shown, end in ((row[self.key], ""), ("  low", "_low"), ("  high", "_high")):
                values = [(row[f"{name}{end}"], scale, n) for _, _, name, scale, n in columns]
                cells = ["-" if v is None else f"{v * scale:.{n}f}" for v, scale, n in values]
                lines.append([shown, *cells])
                if row["not_played"]:
                    break
        reasons = [f"{row[self.key]}: {row['not_played']}" for row in rows if row["not_played"]]
        return "\n".join([*aligned(lines), *reasons])

    def to_csv(self, rows: Sequence[Row]) -> str:
        """Return the rows as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def plot(self, title: str, rows: Sequence[Row], suffix: str) -> bytes:
        """Draw latency, goodput and throughput over the values; see `galaxy_mpi.plot`."""
        drawn = [row for row in rows if not row["not_played"]]

        def panel(label: str, names: dict[str, str], scale: float, **more: Json) -> Panel:
            lines = {
                shown: [
                    [row[f"{name}{end}"] * scale for row in drawn] for end in ("", "_low", "_high")
                ]
                for shown, name in names.items()
                if all(row[name] is not None for row in drawn)
            }
            return Panel(label, lines, **more)

        first = {f"{p}": f"ttft_{p}_s" for p in ("p50", "p90", "p99")}
        other = {f"{p}": f"tpot_{p}_s" for p in ("p50", "p90", "p99")}
        a_second = {"served": "requests_per_s", "good": "goodput_requests_per_s"}
        return panels_png(
            title,
            self.key,
            _numbers([row[self.key] for row in drawn]),
            [
                panel("time to first token, ms", first, 1e3, is_log=True),
                panel("time per output token, ms", other, 1e3),
                panel("requests/s", a_second, 1),
                panel("tokens/s", {"all users": "tokens_per_s"}, 1),
            ],
            suffix,
        )


def row_of(day: Day) -> Row:
    """Return the figures of a row, with both ends of their bands."""
    row: Row = {}
    for name in FIGURES:
        value, ends = day.figures, day.bands
        for part in _path(name):
            value, ends = value[part], ends[part]
        low, high = ends or (None, None)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _nothing() -> Row:
    return {f"{name}{end}": None for name in FIGURES for end in ("", "_low", "_high")}


def _path(name: str) -> tuple[str, ...]:
    """Return the path of a figure: ``ttft_p50_s`` is ``p50`` of ``ttft_s``."""
    kind, _, rest = name.partition("_")
    if kind in ("ttft", "tpot", "e2e"):
        return f"{kind}_s", rest.removesuffix("_s")
    return (name,)


def _numbers(words: list[str]) -> list[str] | list[float]:
    """Return the words as numbers, or unchanged if one is not a number."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return words


def _sharing(found: dict[str, Traffic | str]) -> dict[str, Traffic | str]:
    """Let traffic on equal systems share one system, and with it the times of its steps."""
    systems: list[WhatIf] = []
    shared: dict[str, Traffic | str] = {}
    for value, traffic in found.items():
        if isinstance(traffic, Traffic):
            alike = [each for each in systems if each == traffic.what_if]
            systems += [] if alike else [traffic.what_if]
            traffic = replace(traffic, what_if=(alike or [traffic.what_if])[0])
        shared[value] = traffic
    return shared
