"""Output of a day of traffic: a table for people, JSON, and CSV with one row per request."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from galaxy_mpi import __version__
from galaxy_mpi.engine.ran import config_of, versions
from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.serving.figures import PERCENTILES
from galaxy_mpi.serving.served import CSV_COLUMNS, csv_row
from galaxy_mpi.serving.traffic import Day

__all__ = ["BAND_COLUMNS", "aligned", "requests_csv", "table", "to_dict"]

SCHEMA_VERSION = 1

BAND_COLUMNS = ("ttft_s", "tpot_s", "e2e_s")
"""Columns of the CSV file that come with both ends of their band."""

Column = tuple[str, tuple[str, ...], float, int]
"""Label, path of the figure, factor and digits."""

BENCHMARK: tuple[Column, ...] = (
    ("ISL", ("input_tokens",), 1, 1),
    ("OSL", ("output_tokens",), 1, 1),
    ("concurrency", ("concurrency",), 1, 1),
    ("TTFT ms", ("ttft_s", "mean"), 1e3, 1),
    ("TPOT ms", ("tpot_s", "mean"), 1e3, 2),
    ("tok/s/user", ("tokens_per_s_per_user",), 1, 2),
    ("tok/s", ("tokens_per_s",), 1, 1),
)
"""The columns of tt-inference-server's benchmarks."""

LATENCIES = (
    ("time to first token", "ttft_s"),
    ("time per output token", "tpot_s"),
    ("end to end", "e2e_s"),
    ("queueing", "queue_s"),
)

TOTALS: tuple[Column, ...] = (
    ("requests/s", ("requests_per_s",), 1, 3),
    ("goodput, requests/s", ("goodput_requests_per_s",), 1, 3),
    ("goodput, % of requests", ("goodput_share",), 100, 1),
    ("duration, s", ("duration_s",), 1, 1),
    ("decode step, ms (mean)", ("decode_step_s",), 1e3, 3),
    ("tokens/s of decode steps", ("decode_tokens_per_s",), 1, 1),
    ("prompt tokens/s", ("prefill_tokens_per_s",), 1, 1),
    ("queue length, mean", ("queue_length", "mean"), 1, 1),
    ("queue length, max", ("queue_length", "max"), 1, 0),
    ("places in use, mean", ("users", "mean"), 1, 1),
    ("places in use, max", ("users", "max"), 1, 0),
    ("KV cache in use, %, mean", ("cache_occupancy", "mean"), 100, 1),
    ("KV cache in use, %, max", ("cache_occupancy", "max"), 100, 1),
    ("time in prefill, %", ("prefill_share",), 100, 1),
    ("time in decode, %", ("decode_share",), 100, 1),
    ("DRAM, % of peak", ("dram_utilization",), 100, 1),
    ("FLOPS, % of peak", ("flops_utilization",), 100, 1),
)


def to_dict(day: Day, argv: Sequence[str]) -> JsonObject:
    """Return the content of ``--json``; see docs/traffic.md."""
    traffic = day.traffic
    what_if, limits, slo = traffic.what_if, traffic.limits, traffic.slo
    margins = zip(("first_token", "step"), traffic.margins, strict=True)
    machine = what_if.programs.on(what_if.emulated_machine)
    return {
        "schema_version": SCHEMA_VERSION,
        "galaxy_mpi": __version__,
        "run": {
            "argv": list(argv),
            "config": config_of(what_if) | config_of(traffic.load),
            "machine": asdict(machine),
            "versions": versions(),
        },
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
    """Return one row per request, in order of arrival."""
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
    """Return the figures for people, with both ends of their bands."""
    percentiles = ("mean", *(f"p{percent}" for percent in PERCENTILES))
    benchmark: list[Sequence[str]] = [("", *(label for label, *_ in BENCHMARK))]
    benchmark += zip(("modelled", "  low", "  high"), *_columns(day, BENCHMARK), strict=True)
    latencies: list[Sequence[str]] = [("device time, ms", *percentiles)]
    for label, name in LATENCIES:
        columns: list[Column] = [(of, (name, of), 1e3, 1) for of in percentiles]
        latencies += zip((label, "  low", "  high"), *_columns(day, columns), strict=True)
    totals: list[Sequence[str]] = [("", "modelled", "low", "high")]
    totals += [(label, *cells) for (label, *_), cells in _totals(day)]
    parts = (_heading(day), benchmark, latencies, totals)
    return "\n\n".join("\n".join(aligned(part)) for part in parts)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines: the first cell to the left, the others to the right.

    Rows of two cells are a name and a text: both to the left.
    """
    if all(len(row) == 2 for row in rows):
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {text}" for name, text in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _heading(day: Day) -> list[tuple[str, str]]:
    traffic, load, figures = day.traffic, day.traffic.load.to_dict(), day.figures
    what_if, limits, slo = traffic.what_if, traffic.limits, traffic.slo
    if load["rate"] is not None:
        how = f"{load['rate']:g} requests/s (Poisson)"
    elif load["concurrency"] is not None:
        how = f"{load['concurrency']} clients in a closed loop"
    else:
        how = f"from {load['trace']}"
    first, step = traffic.margins
    served = [f"{figures['completed']} of {figures['requests']} requests"]
    served += [f"{figures[name]} {name}" for name in ("refused", "cancelled") if figures[name]]
    if figures["cache_full"]:
        served.append(f"{figures['cache_full']} cut short by a full context or cache")
    counts = f"{figures['passes']} prefill passes, {figures['steps']} decode steps"
    rows = [
        ("model", f"{what_if.model}, {what_if.programs.model.n_layers} layers"),
        ("mesh, machine", f"{what_if.programs.asked_mesh}, {what_if.machine}"),
        ("system, precision", f"{what_if.system_name}, {what_if.programs.precision.name}"),
        ("traffic", f"{load['requests']} requests, {how}, seed {load['seed']}"),
        ("places", f"{traffic.n_places}"),
        ("KV cache", f"{limits.n_blocks} blocks of {limits.page_size} positions per column"),
        ("bands", f"prefill +-{first.margin:.0%}, {first.regime}; "
                  f"step +-{step.margin:.0%}, {step.regime}"),
        ("served", ", ".join(served)),
        ("scheduled", f"{counts}, {figures['mode_switches']} mode switches"),
    ]  # fmt: skip
    if figures["cached_tokens"]:
        rows.append(("prefix cache", f"{figures['cached_tokens']} prompt tokens found"))
    bounds = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
    asked = [f"{name} <= {s * 1e3:g} ms" for name, s in bounds if s is not None]
    return [*rows, ("goodput counts", ", ".join(asked))] if asked else rows


def _totals(day: Day) -> Iterator[tuple[Column, Sequence[str]]]:
    links: list[Column] = [
        (f"{axis} links, % of peak", ("link_utilization", axis), 100, 1)
        for axis in day.figures["link_utilization"]
    ]
    known = [each for each in TOTALS if day.traffic.slo.is_set or "goodput" not in each[0]]
    columns = [*known, *links]
    return zip(columns, _columns(day, columns), strict=True)


def _columns(day: Day, columns: Sequence[Column]) -> list[tuple[str, str, str]]:
    """Return each figure as it is modelled, and both ends of its band."""
    cells = []
    for _, path, scale, digits in columns:
        value: Json = day.figures
        ends: Json = day.bands
        for part in path:
            value, ends = value[part], ends[part]
        three = (None,) * 3 if value is None else (value, *ends)
        first, low, high = ("-" if x is None else f"{x * scale:.{digits}f}" for x in three)
        cells.append((first, low, high))
    return cells
