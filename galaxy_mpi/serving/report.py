"""What a day of traffic tells: a table for people, JSON, and a CSV row a request."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from galaxy_mpi import __version__
from galaxy_mpi.engine.ran import versions
from galaxy_mpi.serving.figures import PERCENTILES
from galaxy_mpi.serving.served import CSV_COLUMNS, csv_row
from galaxy_mpi.serving.traffic import Day

__all__ = ["BAND_COLUMNS", "aligned", "requests_csv", "table", "to_dict"]

SCHEMA_VERSION = 1

BAND_COLUMNS = ("ttft_s", "tpot_s", "e2e_s")
"""Of which the CSV file has both ends."""

BENCHMARK = (
    ("ISL", ("input_tokens",), 1, 1),
    ("OSL", ("output_tokens",), 1, 1),
    ("concurrency", ("concurrency",), 1, 1),
    ("TTFT ms", ("ttft_s", "mean"), 1e3, 1),
    ("TPOT ms", ("tpot_s", "mean"), 1e3, 2),
    ("tokens/s/user", ("tokens_per_s_per_user",), 1, 2),
    ("tokens/s", ("tokens_per_s",), 1, 1),
    ("requests/s", ("requests_per_s",), 1, 3),
)
"""Label, place, factor and digits of each column."""


def to_dict(day: Day, argv: Sequence[str]) -> dict[str, Any]:
    """Return what ``--json`` writes; see docs/traffic.md."""
    traffic = day.traffic
    what_if, limits, slo = traffic.what_if, traffic.limits, traffic.slo
    margins = zip(("first_token", "step"), traffic.margins, strict=True)
    machine = what_if.programs.on(what_if.emulated_machine)
    return {
        "schema_version": SCHEMA_VERSION,
        "galaxy_mpi": __version__,
        "run": {"argv": list(argv), "versions": versions(), "machine": asdict(machine)},
        "model": what_if.model,
        "mesh": str(what_if.programs.asked_mesh),
        "machine": what_if.machine,
        "constants": list(what_if.constants),
        "system": what_if.system_name,
        "precision": what_if.programs.precision.name,
        "load": traffic.load.to_dict(),
        "places": traffic.n_places,
        "page_size": limits.page_size,
        "cache_blocks": limits.n_blocks,
        "prefix_caching": traffic.prefix_caching,
        "slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s},
        "device": day.figures,
        "device_bands": day.bands,
        "margins": {
            name: {"margin": margin.margin, "regime": margin.regime} for name, margin in margins
        },
    }


def requests_csv(day: Day) -> str:
    """Return a row for each request, in the order in which they came."""
    ends = [f"{name[:-2]}_{end}_s" for name in BAND_COLUMNS for end in ("low", "high")]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*CSV_COLUMNS, *ends], lineterminator="\n")
    writer.writeheader()
    for one, *others in zip(day.service.served, day.fast.served, day.slow.served, strict=True):
        row = csv_row(one)
        for name in BAND_COLUMNS:
            known = [s for s in (getattr(each, name) for each in (one, *others)) if s is not None]
            row[f"{name[:-2]}_low_s"] = min(known, default="")
            row[f"{name[:-2]}_high_s"] = max(known, default="")
        writer.writerow(row)
    return text.getvalue()


def table(day: Day) -> str:
    """Return the figures for people; behind each what it may be, by the bands of the device."""
    figures, ends = day.figures, day.bands
    lines = [*_heading(day), "", *_benchmark_rows(figures, ends), ""]
    columns = ("mean", *(f"p{percent}" for percent in PERCENTILES))
    rows: list[tuple[str, ...]] = [("device time, ms", *columns)]
    for name, label in (
        ("ttft_s", "time to first token"),
        ("tpot_s", "time per output token"),
        ("e2e_s", "end to end"),
        ("queue_s", "of it in the queue"),
    ):
        cells = [_banded(figures[name][of], ends[name][of], 1e3, 1) for of in columns]
        rows.append((label, *cells))
    totals = _totals(figures, ends, day)
    width = max(len(name) for name, _ in totals)
    lines += [*aligned(rows), "", *(f"{name:<{width}}  {value}" for name, value in totals)]
    return "\n".join(lines)


def _heading(day: Day) -> list[str]:
    traffic, load = day.traffic, day.traffic.load.to_dict()
    what_if, limits = traffic.what_if, traffic.limits
    if load["rate"] is not None:
        how = f"{load['rate']:g} requests a second (Poisson)"
    elif load["concurrency"] is not None:
        how = f"{load['concurrency']} clients in a closed loop"
    else:
        how = f"as in {load['trace']}"
    first, step = traffic.margins
    rows = [
        ("model", f"{what_if.model}, {what_if.programs.model.n_layers} layers"),
        ("mesh, machine", f"{what_if.programs.asked_mesh}, {what_if.machine}"),
        ("system, precision", f"{what_if.system_name}, {what_if.programs.precision.name}"),
        ("traffic", f"{load['requests']} requests, {how}, seed {load['seed']}"),
        ("places, cache", f"{traffic.n_places}; {limits.n_blocks} blocks of {limits.page_size} "
                          f"positions a column"),
        ("bands", f"a prefill +-{first.margin:.0%} ({first.regime}), "
                  f"a step +-{step.margin:.0%} ({step.regime})"),
    ]  # fmt: skip
    return [f"{name:<17}  {value}" for name, value in rows]


def _benchmark_rows(figures: dict[str, Any], ends: dict[str, Any]) -> list[str]:
    """Return the columns of tt-inference-server's benchmarks, and both ends of each."""
    rows = [("", *(label for label, *_ in BENCHMARK))]
    for number, which in enumerate((None, 0, 1)):
        cells = []
        for _, path, scale, digits in BENCHMARK:
            value: Any = figures
            end: Any = ends
            for part in path:
                value, end = value[part], end[part]
            shown = value if which is None or end is None else end[which]
            cells.append("-" if shown is None else f"{shown * scale:.{digits}f}")
        rows.append((("device as modelled", "least in its band", "most")[number], *cells))
    return aligned(rows)


def _totals(figures: dict[str, Any], ends: dict[str, Any], day: Day) -> list[tuple[str, str]]:
    def told(name: str, scale: float = 1, digits: int = 1, unit: str = "") -> str:
        return _banded(figures[name], ends[name], scale, digits) + unit

    def share(name: str) -> str:
        return _banded(figures[name], ends[name], 100, 1) + " %"

    def spread(name: str, scale: float, digits: int, unit: str) -> str:
        mean, most = (
            _banded(figures[name][of], ends[name][of], scale, n_digits)
            for of, n_digits in (("mean", 1), ("most", digits))
        )
        return f"mean {mean}, most {most}{unit}"

    links = ", ".join(
        f"{axis} {_banded(value, ends['link_utilization'][axis], 100, 1)}"
        for axis, value in figures["link_utilization"].items()
    )
    lost = [f"{figures[name]} {name}" for name in ("refused", "cancelled") if figures[name]]
    if figures["cache_full"]:
        lost.append(f"{figures['cache_full']} ended where the context or the cache was full")
    slo = day.traffic.slo
    rows = [
        ("served", ", ".join([f"{figures['completed']} of {figures['requests']}", *lost])),
        ("duration", told("duration_s", 1, 1, " s")),
        ("decode steps", f"{figures['steps']}, {told('decode_step_s', 1e3, 3, ' ms on the mean')}"),
        ("tokens/s in steps", told("decode_tokens_per_s")),
        ("prefill", f"{figures['passes']} passes, {told('prefill_tokens_per_s')} prompt tokens/s"),
        ("from the cache", f"{figures['cached_tokens']} prompt tokens"),
        ("mode switches", str(figures["mode_switches"])),
        ("queue length", spread("queue_length", 1, 0, "")),
        ("users with a place", spread("users", 1, 0, f" of {day.traffic.n_places}")),
        ("cache occupancy", spread("cache_occupancy", 100, 1, " %")),
        ("time in prefill, decode", f"{share('prefill_share')}, {share('decode_share')}"),
        ("of the peak: DRAM", share("dram_utilization")),
        ("of the peak: FLOPs", share("flops_utilization")),
        ("of the peak: links", f"{links} %" if links else "none"),
    ]
    if slo.is_set:
        asked = [
            f"{name} {seconds * 1e3:g} ms"
            for name, seconds in (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
            if seconds is not None
        ]
        good = f"{told('goodput_requests_per_s', 1, 3)} requests/s, {share('goodput_share')}"
        rows.insert(1, (f"within {', '.join(asked)}", good))
    return rows


def _banded(value: float | None, ends: Sequence[float] | None, scale: float, digits: int) -> str:
    """Return a figure with its band; one number where the band is none."""
    if value is None or ends is None:
        return "-"
    shown, *others = (f"{each * scale:.{digits}f}" for each in (value, *ends))
    return shown if {shown} == set(others) else f"{shown} ({others[0]}-{others[1]})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, the first cell to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
