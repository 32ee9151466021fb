"""Error bands of device times, from fits that did not see the times they predict.

There are three regimes. *Calibrated*: exactly a published configuration that was fitted.
*Interpolated*: another model or length on a fitted machine and system. *Extrapolated*: everything
else. The margin of a regime covers nine in ten of the errors of such predictions
(``left_out.json``, which `galaxy_mpi.calibrate --left-out` writes).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from galaxy_mpi.timing.published import LEFT_OUT

__all__ = ["Band", "Conditions", "bands_of"]

_COVERED = 0.9
"""Share of the errors within a margin."""

_LEAST = {"calibrated": 0.03, "interpolated": 0.08, "extrapolated": 0.15}
"""Smallest margin that is ever claimed."""

_KNOWN = {
    ("galaxy", "wormhole_galaxy_6u", "8x4"): (128, 4096),
    ("tt_transformers", "n150", "1x1"): (128,),
    ("tt_transformers", "n300", "1x2"): (128,),
    ("tt_transformers", "t3000", "1x8"): (128,),
}
"""Lengths of the published steps and prompts, by system, machine and mesh."""

_SIZES = {"galaxy": {(8192, 80)}, "tt_transformers": {(2048, 16), (3072, 28)}}
"""Dim and layers of the models."""

_LONGER = 8
"""Lengths up to this multiple of the longest known one are interpolated."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a figure."""

    system: str
    machine: str
    mesh: str
    dim: int
    n_layers: int
    n_tokens: int
    """Tokens of the prompt, or before the step."""
    is_changed: bool = False
    """Whether constants, links, formats or buffers differ from the publication."""

    @property
    def regime(self) -> str:
        """Its name."""
        lengths = _KNOWN.get((self.system, self.machine, self.mesh))
        if lengths is None or self.n_tokens > _LONGER * max(lengths):
            return "extrapolated"
        is_known = (self.dim, self.n_layers) in _SIZES[self.system] and not self.is_changed
        near = any(n / 1.25 <= max(self.n_tokens, 128) <= n * 1.25 for n in lengths)
        return "calibrated" if is_known and near else "interpolated"


@dataclass(frozen=True)
class Band:
    """A margin and its regime."""

    regime: str
    margin: float
    """Relative: the true value is between figure / (1 + margin) and figure * (1 + margin)."""

    def to_dict(self, name: str, value: float) -> dict[str, Any]:
        """Return the entries to add to a report for the figure ``name``."""
        factor = 1 + self.margin
        return {
            f"{name}_band": [value / factor, value * factor],
            f"{name}_margin": self.margin,
            f"{name}_regime": self.regime,
        }


def bands_of(figures: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return the bands of a report's two main figures."""
    found: dict[str, Any] = {}
    for name, kind in (("decode_step_s", "step"), ("time_to_first_token_s", "first token")):
        found |= band(kind, conditions).to_dict(name, figures[name])
    return found


def band(kind: str, conditions: Conditions) -> Band:
    """Return the band of a ``step`` or a ``first token``."""
    regime = conditions.regime
    margin = max(_LEAST[regime], _quantile(_errors(kind, regime, conditions.system)))
    lengths = _KNOWN.get((conditions.system, conditions.machine, conditions.mesh), (4096,))
    # Beyond known lengths, the margin grows by half for every factor of four in length.
    beyond = math.log(max(1.0, conditions.n_tokens / (_LONGER * max(lengths))), 4)
    return Band(regime, round(margin * (1 + beyond / 2), 3))


def _errors(kind: str, regime: str, system: str) -> list[float]:
    rows = [row for row in _rows() if row["kind"] == kind]
    if regime == "calibrated":
        return [row["error"] for row in rows if row["left_out"] == "" and row["system"] == system]
    left = {
        "interpolated": ("model", "length", "machine"),
        "extrapolated": ("machine", "system", "kind"),
    }
    return [row["error"] for row in rows if row["left_out"] in left[regime]]


def _quantile(errors: Sequence[float]) -> float:
    """Return the margin that covers most of the errors."""
    sizes = sorted(max(1 + e, 1 / (1 + e)) - 1 for e in errors)
    if not sizes:
        return 0.0
    return float(sizes[min(len(sizes) - 1, math.ceil(_COVERED * len(sizes)) - 1)])


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(LEFT_OUT.read_text("utf-8")))
