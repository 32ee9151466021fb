"""The gain of each optimization of the Galaxy: rows of figures, starting at TT-Transformers."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from galaxy_mpi.arrays import added
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, LlamaConfig, Programs
from galaxy_mpi.studies.host_steps import HostFigures
from galaxy_mpi.studies.ideas import CLAIMED_SIZES, CLAIMS, IDEAS, Variant
from galaxy_mpi.systems import Wanted
from galaxy_mpi.systems.formats import differing
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.bands import Band, Conditions, band
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.times import Timing

__all__ = ["Row", "device_figures", "gains_of", "rows_of", "stored", "table", "to_dict"]

_WIDTH = 34
"""Of the column of names."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    group: str
    is_alone: bool
    device: Timing | None
    allocations: int
    """Buffers that the device allocates in a step."""
    device_gain: float | None
    """Time without this optimization over time with it, on top of the rows above, or by itself if
    ``is_alone``; 1 for the first row."""
    host: HostFigures | None
    host_gain: float | None
    other_tokens: int | None
    """Users whose next token differs from that of the row before."""
    band: Band | None = None
    """Error band of the device time."""

    @property
    def host_step_s(self) -> float | None:
        """Median over all turns."""
        return None if self.host is None else statistics.median(self.host.step_s)


def device_figures(
    variants: Sequence[Variant],
    model: LlamaConfig,
    machine: Machine,
    mesh: Mesh,
    wanted: Wanted,
    *,
    users: int,
    position: int,
    layout_class: type[Layout] = Layout,
) -> list[tuple[Timing, int]]:
    """Return device time and allocated buffers of a decode step of each variant."""
    found = []
    for variant in variants:
        precision = wanted.on(variant.system, model)
        programs = Programs(
            model, mesh, variant.system, precision, users=users, layout_class=layout_class
        )
        estimator = Estimator(programs, machine)
        timing = estimator.step([position] * programs.mesh.cols)
        found.append((timing, 0 if programs.is_persistent else estimator.n_buffers))
    return found


def rows_of(
    variants: Sequence[Variant],
    device: Sequence[tuple[Timing, int]] | None,
    host: Sequence[HostFigures] | None,
    conditions: Conditions | None = None,
) -> list[Row]:
    """Join the figures of the variants, in their order.

    Parameters
    ----------
    conditions : Conditions, optional
        For the error band of the complete Galaxy. Nothing is published about the variants before
        it; their times rest on assumptions.
    """
    complete = max(n for n, variant in enumerate(variants) if not variant.is_alone)
    rows: list[Row] = []
    for number, variant in enumerate(variants):
        # An optimization by itself is compared with the generic system in the same formats.
        before = 1 if variant.is_alone else max(number - 1, 0)
        timing, n_made = device[number] if device else (None, 0)
        rows.append(
            Row(
                name=variant.name,
                group=variant.idea.group if variant.idea else "",
                is_alone=variant.is_alone,
                device=timing,
                allocations=n_made,
                device_gain=device[before][0].seconds / timing.seconds
                if device and timing
                else None,
                host=host[number] if host else None,
                host_gain=_paired(host[before], host[number]) if host else None,
                other_tokens=_changed(host[before], host[number]) if host else None,
                band=_band(conditions, number == complete) if timing else None,
            )
        )
    return rows


def _band(conditions: Conditions | None, is_complete: bool) -> Band | None:
    if conditions is None:
        return None
    if not is_complete:
        conditions = replace(conditions, system="tt_transformers")
    return band("step", conditions)


def _paired(before: HostFigures, after: HostFigures) -> float:
    """Return the median over turns of the ratio of times."""
    return statistics.median(a / b for a, b in zip(before.step_s, after.step_s, strict=True))


def _changed(before: HostFigures, after: HostFigures) -> int:
    """Return how many users get a different next token."""
    return sum(a != b for a, b in zip(before.tokens, after.tokens, strict=True))


def gains_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the speed-up of each group of optimizations, in order, and of all."""
    gains = dict.fromkeys((idea.group for idea in IDEAS), 1.0)
    for row in rows:
        if row.group in gains and not row.is_alone and row.device_gain is not None:
            gains[row.group] *= row.device_gain
    total = 1.0
    for gain in list(gains.values()):
        total *= gain
    return gains | {"all": total}


def to_dict(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return a flat record per row, with units in the names; None where unknown."""
    records = []
    for row in rows:
        device, host = row.device, row.host
        record = {
            "name": row.name,
            "alone": row.is_alone,
            "device_step_s": device.seconds if device else None,
            "device_margin": row.band.margin if row.band else None,
            "device_regime": row.band.regime if row.band else None,
            "device_gain": row.device_gain,
            "link_bytes_column": device.link_bytes["column"] if device else None,
            "link_bytes_row": device.link_bytes["row"] if device else None,
            "device_stall_s": device.stall_s if device else None,
            "allocations": row.allocations,
            "host_step_s": row.host_step_s,
            "host_gain": row.host_gain,
            # A bound program allocates nothing when it runs.
            "host_allocations": 0 if host else None,
            "host_allocated_bytes": 0 if host else None,
            "host_stall_s": host.stall_s if host else None,
            "other_tokens": row.other_tokens,
        }
        records.append(record)
    return records


def table(rows: Sequence[Row], model: LlamaConfig, variants: Sequence[Variant]) -> str:
    """Return the table as text, 80 columns wide."""
    alone = {row.name: row for row in rows if row.is_alone}
    listed = [(row, alone.get(row.name)) for row in rows if not row.is_alone]
    lines: list[str] = []
    if rows[0].device is not None:
        most = max(_sent(row.device) for row in rows if row.device is not None)
        unit, unit_bytes = ("MiB", 2**20) if most >= 2**20 else ("KiB", 2**10)
        lines += [
            f"{'device time of a decode step':<{_WIDTH}}{'ms':>9}{'gain':>8}{'alone':>8}"
            f"{unit + ' sent':>9}{'allocations':>12}",
            *(_device_line(*pair, unit_bytes) for pair in listed),
        ]
        bands = [row.band for row, _ in listed if row.band is not None]
        if bands:
            first, last = bands[0], bands[-1]
            lines += [
                "",
                f"error bands: all optimizations together {last.regime}, +-{last.margin:.0%};",
                f"other rows {first.regime}, +-{first.margin:.0%} (nothing is published for them)",
            ]
        if (model.dim, model.n_layers) == CLAIMED_SIZES:
            lines += ["", *_claimed(rows)]
    if rows[0].host is not None:
        lines += [
            *([""] if lines else []),
            f"{'host time of a decode step':<{_WIDTH}}{'ms':>9}{'gain':>8}{'alone':>8}",
            *(_host_line(*pair) for pair in listed),
        ]
    tokens = {row.host.tokens for row in rows if row.host is not None}
    if tokens:
        differ = "all equal" if len(tokens) == 1 else f"{len(tokens)} different sets (rounding)"
        lines += ["", f"next tokens of all variants: {differ}"]
        lines.append(f"the Galaxy's formats change the next token of {rows[1].other_tokens} users")
    lines += ["", *stored(model, variants)]
    return "\n".join(lines)


def _claimed(rows: Sequence[Row]) -> Iterator[str]:
    gains = gains_of(rows)
    name = "claimed in an earlier write-up"
    yield f"{name:<{_WIDTH}}{'claimed':>18}{'modelled':>10}{'ratio':>8}"
    for group, claim in CLAIMS.items():
        gain = gains[group]
        yield f"{group:<{_WIDTH}}{claim.text:>18}{gain - 1:>10.1%}{claim.factor(gain):>8.2f}"
    yield "ratio: modelled over claimed gain, 1.00 within the claimed range"


def stored(model: LlamaConfig, variants: Sequence[Variant]) -> Iterator[str]:
    """Yield the tensors that the two systems store in different formats."""
    own, galaxys = (variant.system.formats for variant in variants[:2])
    tensors: dict[tuple[str, str, str], list[str]] = {}
    for mode, tensor, before, after in differing(own, galaxys, model):
        tensors.setdefault((mode, before.name, after.name), []).append(tensor)
    for (mode, old, new), names in tensors.items():
        text = f"stored differently in {mode}, {old} -> {new}: {', '.join(names)}"
        yield from textwrap.wrap(text, 80, subsequent_indent="    ")


def _sent(step: Timing) -> float:
    """Return the bytes on the busiest link of each axis."""
    return added(step.link_bytes.values())


def _device_line(row: Row, alone: Row | None, unit_bytes: int) -> str:
    if row.device is None:
        return _name(row, alone)
    sent = _sent(row.device) / unit_bytes
    return (
        f"{_name(row, alone)}{row.device.seconds * 1e3:>9.3f}"
        f"{_percent(row.device_gain if row.group else None):>8}"
        f"{_percent(alone.device_gain if alone else None):>8}{sent:>9.1f}{row.allocations:>12}"
    )


def _host_line(row: Row, alone: Row | None) -> str:
    return (
        f"{_name(row, alone)}{(row.host_step_s or 0.0) * 1e3:>9.1f}"
        f"{_percent(row.host_gain if row.group else None):>8}"
        f"{_percent(alone.host_gain if alone else None):>8}"
    ).rstrip()


def _name(row: Row, alone: Row | None) -> str:
    return f"{row.name if alone is None else '+ ' + row.name:<{_WIDTH}}"


def _percent(gain: float | None) -> str:
    return "" if gain is None else f"{gain - 1:+.1%}"
