"""What each idea of the Galaxy is worth: rows of figures, from TT-Transformers to the Galaxy."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import LlamaConfig, Programs
from galaxy_mpi.studies.host_steps import HostFigures
from galaxy_mpi.studies.ideas import CLAIMS, IDEAS, Variant
from galaxy_mpi.systems import Wanted
from galaxy_mpi.systems.formats import differing
from galaxy_mpi.timing import Estimator, Machine, Timing
from galaxy_mpi.timing.bands import Band, Conditions, band

__all__ = ["Row", "device_figures", "gains_of", "rows_of", "stored", "table", "to_dict"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    group: str
    is_alone: bool
    device: Timing | None
    allocations: int
    """Buffers that the device makes in a step."""
    device_gain: float | None
    """Time before this idea over the time with it, the ones before it being on (or none, if it is
    alone); of the first line 1."""
    host: HostFigures | None
    host_gain: float | None
    other_tokens: int | None
    """Users whose next token is another than that of the variant before."""
    band: Band | None = None
    """How far the device time may be off."""

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
) -> list[tuple[Timing, int]]:
    """Return the device time of a decode step of each variant, and the buffers it makes."""
    found = []
    for variant in variants:
        precision = wanted.on(variant.system, model)
        programs = Programs(model, mesh, variant.system, precision, users=users)
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
        Of the Galaxy's step, the last variant that is not alone; on the way there nothing is
        published, and its time rests on assumptions.
    """
    complete = max(n for n, variant in enumerate(variants) if not variant.is_alone)
    rows: list[Row] = []
    for number, variant in enumerate(variants):
        # Ideas by themselves change the generic system in the same formats.
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
    """Return the median of the ratios of each turn."""
    return statistics.median(a / b for a, b in zip(before.step_s, after.step_s, strict=True))


def _changed(before: HostFigures, after: HostFigures) -> int:
    """Return how many users get another next token."""
    return sum(a != b for a, b in zip(before.tokens, after.tokens, strict=True))


def gains_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return by how much each group of ideas makes the device faster, in their order."""
    gains = dict.fromkeys((idea.group for idea in IDEAS), 1.0)
    for row in rows:
        if row.group in gains and not row.is_alone and row.device_gain is not None:
            gains[row.group] *= row.device_gain
    total = 1.0
    for gain in list(gains.values()):
        total *= gain
    return gains | {"all": total}


def to_dict(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a flat record for each row, with the unit in each name; null where not known."""
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
            # A program that is bound once makes nothing when it runs.
            "host_allocations": 0 if host else None,
            "host_allocated_bytes": 0 if host else None,
            "host_stall_s": host.stall_s if host else None,
            "other_tokens": row.other_tokens,
        }
        records.append(record)
    return records


def table(rows: Sequence[Row], model: LlamaConfig, variants: Sequence[Variant]) -> str:
    """Return what people read."""
    width = max(len(row.name) for row in rows) + 2
    head = (
        f"{'':<{width}}{'device ms':>10}{'gain':>8}{'alone':>8}{'MiB sent':>10}{'allocs':>8}"
        f"{'stall us':>10}{'host ms':>9}{'gain':>8}{'alone':>8}"
    )
    alone = {row.name: row for row in rows if row.is_alone}
    lines = [head]
    for row in rows:
        if not row.is_alone:
            lines.append(f"{_line(row, alone.get(row.name), width)}".rstrip())
    gains = gains_of(rows)
    margins = [row.band for row in rows if row.band is not None and not row.is_alone]
    if margins:
        first, last = margins[0], margins[-1]
        lines += ["", f"device ms: {first.regime}, +-{first.margin:.0%}; all ideas together "
                  f"{last.regime}, +-{last.margin:.0%}. No step of {rows[0].name} on this machine "
                  f"is published: its links and its host are assumed."]  # fmt: skip
    if rows[0].device is not None:
        lines += ["", f"{'claimed by an older description':<{width}}{'claimed':>18}{'modelled':>10}"
                  f"{'factor':>8}"]  # fmt: skip
        for group, claim in CLAIMS.items():
            gain = gains[group]
            lines.append(
                f"{group:<{width}}{claim.text:>18}{gain - 1:>10.1%}{claim.factor(gain):>8.2f}"
            )
    tokens = {row.host.tokens for row in rows if row.host is not None}
    if tokens:
        same = "the same" if len(tokens) == 1 else f"{len(tokens)} different ones (roundings)"
        lines += ["", f"next tokens of all variants: {same}"]
        lines.append(f"of the formats: {rows[1].other_tokens} users get another token")
    lines += ["", *stored(model, variants)]
    return "\n".join(lines)


def stored(model: LlamaConfig, variants: Sequence[Variant]) -> Iterator[str]:
    """Yield what the two systems store differently, a line for each change."""
    own, galaxys = (variant.system.formats for variant in variants[:2])
    tensors: dict[tuple[str, str, str], list[str]] = {}
    for mode, tensor, before, after in differing(own, galaxys, model):
        tensors.setdefault((mode, before.name, after.name), []).append(tensor)
    for (mode, old, new), names in tensors.items():
        yield f"formats, {mode}: {old} -> {new}: {', '.join(names)}"


def _line(row: Row, alone: Row | None, width: int) -> str:
    def percent(gain: float | None) -> str:
        return "" if gain is None else f"{gain - 1:+.1%}"

    by_itself = (alone.device_gain, alone.host_gain) if alone else (None, None)
    first = not row.group
    cells = [f"{row.name if alone is None else '+ ' + row.name:<{width}}"]
    if row.device is None:
        cells.append(f"{'-':>10}{'':>8}{'':>8}{'-':>10}{row.allocations:>8}{'-':>10}")
    else:
        sent = sum(row.device.link_bytes.values()) / 2**20
        cells.append(
            f"{row.device.seconds * 1e3:>10.3f}{'' if first else percent(row.device_gain):>8}"
            f"{percent(by_itself[0]):>8}{sent:>10.1f}{row.allocations:>8}"
            f"{row.device.stall_s * 1e6:>10.1f}"
        )
    if row.host_step_s is not None:
        cells.append(
            f"{row.host_step_s * 1e3:>9.0f}{'' if first else percent(row.host_gain):>8}"
            f"{percent(by_itself[1]):>8}"
        )
    return "".join(cells)
