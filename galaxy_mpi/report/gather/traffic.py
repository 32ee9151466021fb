"""The page of `galaxy_mpi.traffic`."""

from collections.abc import Iterable, Iterator, Sequence

from galaxy_mpi.json_values import Json, JsonView
from galaxy_mpi.report.gather.configuration import configuration_section, plain, versions_text
from galaxy_mpi.report.gather.places import places_sections
from galaxy_mpi.report.parts import (
    Bars,
    Cell,
    Column,
    Curves,
    Ends,
    Facts,
    Page,
    Section,
    Table,
)
from galaxy_mpi.serving.served import Served

__all__ = ["traffic_page"]

_QUANTILES = 200
"""Points of a distribution."""

_LATENCIES = (
    ("time to first token", "ttft_s"),
    ("time per output token", "tpot_s"),
    ("end to end", "e2e_s"),
    ("of it in the queue", "queue_s"),
)

Figures = JsonView


def traffic_page(content: Figures, served: Sequence[Served]) -> Page:
    """Return the page of a day.

    Parameters
    ----------
    content : mapping
        What ``--json`` writes.
    served : sequence of Served
    """
    run, figures, load = content["run"], content["device"], content["load"]
    how = load["trace"] or (
        f"{load['concurrency']} clients in a closed loop"
        if load["rate"] is None
        else f"{load['rate']:g} requests/s (Poisson)"
    )
    margins = content["margins"]
    facts = [
        ("traffic", f"{load['requests']} requests, {how}, seed {load['seed']}"),
        ("machine, system", f"{content['machine']}, {content['system']}"),
        ("precision", content["precision"]),
        ("places, cache", f"{content['places']}; {content['cache_blocks']} blocks of "
         f"{content['page_size']} positions a column"),
        ("device: time to first token", _spread(content, "ttft_s", "p50", 1e3, "ms")),
        ("device: time per output token", _spread(content, "tpot_s", "mean", 1e3, "ms")),
        ("device: tokens/s", f"{figures['tokens_per_s']:.1f}"),
        ("device: requests/s", f"{figures['requests_per_s']:.3f}"),
        ("bands", ", ".join(f"{name.replace('_', ' ')} +-{m['margin']:.0%} ({m['regime']})"
                            for name, m in margins.items())),
        ("versions", versions_text(run)),
    ]  # fmt: skip
    settings = {
        name: content[name]
        for name in ("model", "mesh", "machine", "constants", "system", "precision", "places",
                     "page_size", "cache_blocks", "prefix_caching")
    }  # fmt: skip
    settings |= {f"load: {name}": value for name, value in load.items()}
    settings |= {f"slo: {name}": value for name, value in content["slo"].items()}
    return Page(
        title=f"A day of traffic: {content['model']} on {content['mesh']} chips",
        command=run["argv"],
        facts=facts,
        sections=[
            _latency_section(content, served),
            _use_section(content),
            *places_sections(served),
            *_values_sections(content),
            configuration_section(run, settings),
        ],
    )


def _values_sections(content: Figures) -> list[Section]:
    """Return what --with-values compared; nothing without it."""
    if "values" not in content:
        return []
    facts = [
        (name.replace("_", " "), plain(value))
        for name, value in content["values"].items()
        if not isinstance(value, list)
    ]
    text = "The same schedule with real tokens: whether device times of the run agree."
    return [Section("Values", [Facts(facts, is_host=True)], text)]


def _spread(content: Figures, name: str, of: str, scale: float, unit: str) -> str:
    value, ends = content["device"][name][of], content["device_bands"][name][of]
    if value is None:
        return "-"
    shown = f"{of} {value * scale:.2f} {unit}"
    return shown if ends is None else f"{shown} ({ends[0] * scale:.2f}-{ends[1] * scale:.2f})"


def _latency_section(content: Figures, served: Sequence[Served]) -> Section:
    figures, bands = content["device"], content["device_bands"]
    kinds = list(figures["ttft_s"])
    rows: list[list[Cell]] = []
    for label, name in _LATENCIES:
        for of in kinds:
            low, high = bands[name][of] or (None, None)
            cells: list[Cell] = [
                None if s is None else s * 1e3 for s in (figures[name][of], low, high)
            ]
            rows.append([label, of, *cells])
    columns = [
        Column("latency"),
        Column("of all requests"),
        Column("device", "ms", ".2f"),
        Column("least in its band", "ms", ".2f"),
        Column("most", "ms", ".2f"),
    ]
    names = [f"{label}, {of}" for label, _ in _LATENCIES[:1] for of in kinds]
    values = [_ms(figures["ttft_s"][of]) for of in kinds]
    bars = Bars(
        "Time to first token",
        "ms",
        names,
        {"device": values},
        Table(columns, rows, "Latencies"),
        ends={"device": [_ends(bands["ttft_s"][of], 1e3) for of in kinds]},
    )
    curves = {
        label: list(_distribution(getattr(one, name) for one in served))
        for label, name in _LATENCIES[:3]
    }
    curves = {label: curve for label, curve in curves.items() if curve}
    shares = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    cells_of: list[list[Cell]] = [
        [share, *(_at_share(curve, share) for curve in curves.values())] for share in shares
    ]
    chart = Curves(
        "Share of the requests that took at most so long",
        "ms",
        "%",
        {label: [(x, 100 * y) for x, y in curve] for label, curve in curves.items()},
        Table(
            [Column("share of requests", "", ".0%"), *(Column(c, "ms", ".2f") for c in curves)],
            cells_of,
            "Distribution",
            is_folded=True,
        ),
        is_log_x=True,
    )
    text = (
        "Device time, counted from a request's arrival, so it includes waiting for a place. Bands "
        "come from playing the same day on the fastest and the slowest device in the error band."
    )
    return Section("Latency", [bars, chart], text)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _ends(ends: Sequence[float] | None, scale: float) -> Ends | None:
    return None if ends is None else (ends[0] * scale, ends[1] * scale)


def _distribution(seconds: Iterable[float | None]) -> Iterator[tuple[float, float]]:
    """Yield (ms, share of the values up to it), at most `_QUANTILES` points."""
    known = sorted(s * 1e3 for s in seconds if s is not None)
    n_points = min(len(known), _QUANTILES)
    for number in range(1, n_points + 1):
        place = number * len(known) // n_points
        yield known[place - 1], place / len(known)


def _at_share(curve: Sequence[tuple[float, float]], share: float) -> float:
    return next(x for x, y in curve if y >= share)


def _use_section(content: Figures) -> Section:
    figures, bands = content["device"], content["device_bands"]
    shares = {
        "time in prefill": ("prefill_share",),
        "time in decode": ("decode_share",),
        "DRAM, of its peak": ("dram_utilization",),
        "FLOPS, of their peak": ("flops_utilization",),
        **{
            f"{axis} links, of their peak": ("link_utilization", axis)
            for axis in figures["link_utilization"]
        },
        "cache, of its blocks": ("cache_occupancy", "mean"),
    }
    names = list(shares)
    values: list[float | None] = []
    ends: list[Ends | None] = []
    for path in shares.values():
        value, end = _at(figures, path), _at(bands, path)
        values.append(None if value is None else 100 * value)
        ends.append(_ends(end, 100))
    counts: list[list[Cell]] = [
        [name.replace("_", " "), float(figures[name])]
        for name in ("requests", "completed", "cache_full", "refused", "cancelled", "duration_s",
                     "requests_per_s", "tokens_per_s", "decode_tokens_per_s",
                     "prefill_tokens_per_s", "tokens_per_s_per_user", "goodput_requests_per_s",
                     "goodput_share", "concurrency", "passes", "steps", "mode_switches",
                     "cached_tokens")
        if figures[name] is not None
    ]  # fmt: skip
    counts += [
        [f"{name.replace('_', ' ')}, {of}", float(figures[name][of])]
        for name in ("queue_length", "users")
        for of in ("mean", "max")
    ]
    rows: list[list[Cell]] = [
        [name, value, *(end or (None, None))]
        for name, value, end in zip(names, values, ends, strict=True)
    ]
    columns = [
        Column("share"),
        Column("device", "%", ".2f"),
        Column("least in its band", "%", ".2f"),
        Column("most", "%", ".2f"),
    ]
    chart = Bars(
        "What was in use, mean over the day",
        "%",
        names,
        {"device": values},
        Table(columns, rows, "In use"),
        ends={"device": ends},
    )
    table = Table([Column("figure"), Column("value", "", ",.6g")], counts, "Counts and rates")
    return Section("Use", [chart, table])


def _at(figures: Json, path: Sequence[str]) -> Json:
    for name in path:
        figures = figures[name]
    return figures
