"""Differences between two captures of `galaxy_mpi.engine.capture`, by op, layer and chip."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsInt

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.output import folded
from galaxy_mpi.program import HEAD

__all__ = ["Difference", "Differences", "compare_captures"]

SCHEMA_VERSION = 1

Values = NDArray[np.generic]
Float64 = NDArray[np.float64]

_HEADER = f"{{:<22}}{'lowest PCC':>11}{'relative error':>15}{'largest error':>14}{'of':>9}  chip"


@dataclass(frozen=True)
class Difference:
    """Differences in one tensor."""

    run: str
    """``prefill-0001``"""
    name: str
    layer: int
    op: str
    pcc: float
    """Pearson's correlation; 1 for equal tensors."""
    relative: float
    """Root mean square of the differences over that of the second capture."""
    largest: float
    """Largest absolute difference."""
    scale: float
    """Largest absolute value of the second capture."""
    chip: str
    """Chip with the largest difference, as ``(0, 1)``; ``*`` stands for all rows or columns."""

    @property
    def where(self) -> str:
        """Op, layer, tensor and pass, as text."""
        layer = "the head" if self.layer == HEAD else f"layer {self.layer}"
        return f"{self.op} of {layer} ({self.name}) in {self.run}"

    def to_dict(self) -> JsonObject:
        """Return the figures; None in place of NaN and infinity."""
        known = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in self.__dict__.items()
        }
        return known | {"layer": "head" if self.layer == HEAD else self.layer}


@dataclass(frozen=True)
class Differences:
    """All tensors that both captures have, in execution order."""

    a: str
    b: str
    found: list[Difference]
    only_in_one: list[str]
    """Tensors in one capture only, or with different shapes."""

    @property
    def differing(self) -> list[Difference]:
        """Those that are not equal."""
        return [one for one in self.found if one.largest > 0]

    @property
    def by_op(self) -> list[Difference]:
        """For each op the least correlation and the largest errors, with the last one's chip."""
        return list(_worst(self.found, lambda one: one.op))

    @property
    def by_layer(self) -> list[Difference]:
        """The same for each layer."""
        return list(_worst(self.found, lambda one: one.layer))

    def first_below(self, pcc: float) -> Difference | None:
        """Return the first whose correlation is below ``pcc``."""
        return next((one for one in self.found if one.pcc < pcc), None)

    def why_not(self, pcc: float) -> str:
        """Return why they do not correlate so much, as text; empty if every tensor does."""
        if self.only_in_one:
            return f"{len(self.only_in_one)} tensors are in one capture only, or of other shapes"
        infinite = [one for one in self.found if not math.isfinite(one.largest)]
        if infinite:
            return f"{infinite[0].where} has values that are finite in one capture only"
        below = self.first_below(pcc)
        return "" if below is None else f"{below.where} has a PCC below {pcc}"

    def to_dict(self, pcc: float) -> JsonObject:
        """Return what ``--json`` writes; see docs/json.md."""
        first, below = next(iter(self.differing), None), self.first_below(pcc)
        return {
            "schema_version": SCHEMA_VERSION,
            "a": self.a,
            "b": self.b,
            "tensors": len(self.found),
            "different": len(self.differing),
            "only_in_one": self.only_in_one,
            "first": None if first is None else first.to_dict(),
            "pcc": pcc,
            "first_below_pcc": None if below is None else below.to_dict(),
            "by_op": [worst.to_dict() for worst in self.by_op],
            "by_layer": [worst.to_dict() for worst in self.by_layer],
        }

    def to_text(self, pcc: float) -> str:
        """Return it as text."""
        lines, differing = list[str](), self.differing
        if self.only_in_one:
            n_alone, example = len(self.only_in_one), self.only_in_one[0]
            lines.append(f"{n_alone} not compared: in one capture only, or different shapes,")
            lines.append(f"  for example {example}")
        lines.append(f"{len(differing)} of {len(self.found)} tensors differ")
        if not differing:
            return "\n".join(lines)
        lines += [folded(f"first to differ: {differing[0].where},"), _figures(differing[0])]
        below = self.first_below(pcc)
        if below is None:
            lines.append(f"none has a PCC below {pcc}")
        else:
            lines += [folded(f"first with a PCC below {pcc}: {below.where},"), _figures(below)]
        for title, rows in (("op", self.by_op), ("layer", self.by_layer)):
            lines += ["", _HEADER.format(title)]
            for worst in rows:
                name = worst.op if title == "op" else "head" if worst.layer == HEAD else worst.layer
                lines.append(
                    f"{name:<22}{worst.pcc:>11.6f}{worst.relative:>15.2e}{worst.largest:>14.3g}"
                    f"{worst.scale:>9.3g}  {worst.chip}"
                )
        return "\n".join(lines)


def compare_captures(a: Path, b: Path) -> Differences:
    """Compare two folders or two files.

    Raises
    ------
    ConfigError
        If one holds no captured values, or they have no file in common.
    """
    files_a, files_b = _files(a), _files(b)
    if a.is_file() and b.is_file():
        files_a, files_b = {"values": a}, {"values": b}
    common = sorted(files_a.keys() & files_b.keys(), key=_order)
    if not common:
        raise ConfigError(f"{a} and {b} have no pass and no step in common")
    found, alone = list[Difference](), list[str]()
    for run in sorted(files_a.keys() ^ files_b.keys(), key=_order):
        alone.append(run)
    for run in common:
        (about, values), (others_about, others) = _read(files_a[run]), _read(files_b[run])
        known = {entry["name"] for entry in others_about["values"]}
        alone += [f"{run}: {name}" for name in sorted(known - values.keys())]
        for entry in about["values"]:
            name = entry["name"]
            if name not in others or others[name].shape != values[name].shape:
                alone.append(f"{run}: {name}")
                continue
            if values[name].dtype.kind != "f":
                continue  # token ids; their logits are compared
            found.append(_difference(run, entry, values[name], others[name], about))
    return Differences(str(a), str(b), found, alone)


def _difference(
    run: str,
    entry: JsonObject,
    ours: Values,
    theirs: Values,
    about: JsonObject,
) -> Difference:
    a, b = (values.astype(np.float64) for values in (ours, theirs))
    with np.errstate(all="ignore"):
        errors = np.where(a == b, 0.0, np.abs(a - b))
    errors[np.isnan(a) & np.isnan(b)] = 0
    errors[np.isnan(errors)] = np.inf
    place = np.unravel_index(int(errors.argmax()), errors.shape) if errors.size else ()
    largest = float(errors[place]) if errors.size else 0.0
    if "chip" in entry:
        chip = f"({entry['chip'][0]}, {entry['chip'][1]})"
    else:
        chip = _holder(entry, place, a.shape, about)
    are_finite = np.isfinite(a) & np.isfinite(b)
    scale = float(np.abs(b[are_finite]).max(initial=0))
    pcc = 1.0 if largest == 0 else _pcc(a[are_finite], b[are_finite])
    relative = 0.0 if largest == 0 else _relative(errors, b[are_finite])
    layer, op = entry["layer"], entry["op"]
    shown = chip if largest else ""
    return Difference(run, entry["name"], layer, op, pcc, relative, largest, scale, shown)


def _holder(
    entry: JsonObject, place: Sequence[SupportsInt], shape: tuple[int, ...], about: JsonObject
) -> str:
    """Return the chip that holds an element of a whole tensor."""
    mesh, found = Mesh.parse(about["mesh"]), {Axis.COLUMN: "*", Axis.ROW: "*"}
    orders = {int(dim): about["orders"][name] for dim, name in entry.get("order", {}).items()}
    sizes = entry.get("joined", shape)
    for dim, (names, at, size) in enumerate(zip(entry["cut"], place, sizes, strict=True)):
        axes = [Axis.named(name) for name in names]
        n_parts = math.prod(mesh.size(axis) for axis in axes)
        joined_at = orders[dim][int(at)] if dim in orders else int(at)
        number = joined_at // (size // n_parts)
        for axis in reversed(axes):
            number, index = divmod(number, mesh.size(axis))
            found[axis] = str(index)
    return f"({found[Axis.COLUMN]}, {found[Axis.ROW]})"


def _pcc(a: Float64, b: Float64) -> float:
    if not a.size:
        return 1.0
    a, b = a - a.mean(), b - b.mean()
    norms = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))


def _relative(errors: Float64, b: Float64) -> float:
    squares = float((b * b).sum())
    return math.sqrt(float((errors * errors).sum()) / squares) if squares else math.inf


def _worst(
    found: Iterable[Difference], key: Callable[[Difference], str | int]
) -> Iterator[Difference]:
    """Yield lowest correlation and largest errors of each key, with the chip of the largest."""
    groups: dict[str | int, list[Difference]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    for group in groups.values():
        worst = max(group, key=lambda one: one.largest)
        least = min(one.pcc for one in group)
        relative = max(one.relative for one in group)
        yield Difference(**(worst.__dict__ | {"pcc": least, "relative": relative}))


def _figures(one: Difference) -> str:
    """Return the line below a tensor that is named."""
    largest = f"largest error {one.largest:.3g} of {one.scale:.3g}"
    return f"  PCC {one.pcc:.6f}, {largest}, chip {one.chip}"


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.stem: path}
    found = {file.stem: file for file in path.glob("*.safetensors")}
    if not found:
        raise ConfigError(f"{path} has no captured values; make some with decode --capture {path}")
    return found


def _order(run: str) -> tuple[bool, str]:
    """Return a sort key: passes before steps, each by number."""
    return not run.startswith("prefill"), run


def _read(path: Path) -> tuple[JsonObject, JsonObject]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["galaxy_mpi"])
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is not a file of decode --capture: {error}") from None
