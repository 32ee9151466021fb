"""Error bands of device times, from fits that did not see the times they predict.

There are three regimes. *Calibrated*: exactly a published configuration that was fitted.
*Interpolated*: another model or length on a fitted machine and system. *Extrapolated*: everything
else. Long contexts have errors of their own. The margin of a regime covers nine in ten of the
errors of such predictions
(``left_out.json``, which `galaxy_mpi.calibrate --left-out` writes).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.timing.published import LEFT_OUT

__all__ = ["Band", "Conditions", "bands_of"]

_COVERED = 0.9
"""Share of the errors within a margin."""

_LEAST = {"calibrated": 0.03, "interpolated": 0.08, "extrapolated": 0.15}
"""Smallest margin that is ever claimed."""

_LONGER = 8
"""Lengths up to this multiple of the longest known one are interpolated."""

_NEAR = 1.25
"""A length is known if it is within this factor of a published one."""

_LONG_FROM = 8192
"""Tokens from which errors are those of long steps and long first tokens."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a figure."""

    system: str
    machine: str
    mesh: str
    dim: int
    hidden_dim: int
    n_layers: int
    n_tokens: int
    """Tokens of the prompt, or before the step."""
    is_changed: bool = False
    """Whether constants, links, formats or buffers differ from the publication."""

    def regime(self, kind: str) -> str:
        """Return the regime of a ``step`` or a ``first token``."""
        known = [row for row in self._known() if _is_of(row["kind"], kind)]
        if not known or self.n_tokens > _LONGER * max(row["tokens"] for row in known):
            return "extrapolated"
        n_tokens, sizes = max(self.n_tokens, 128), (self.dim, self.hidden_dim, self.n_layers)
        is_published = any(
            row["kind"].endswith(kind)
            and (row["dim"], row["hidden_dim"], row["n_layers"]) == sizes
            and row["tokens"] / _NEAR <= n_tokens <= row["tokens"] * _NEAR
            and not row["changed"]
            for row in known
        )
        return "calibrated" if is_published and not self.is_changed else "interpolated"

    def _known(self) -> list[JsonObject]:
        """Return the published times of the system on the machine."""
        place = (self.system, self.machine, self.mesh)
        return [
            row
            for row in _rows()
            if row["left_out"] == "" and (row["system"], row["machine"], row["mesh"]) == place
        ]


def _is_of(row_kind: str, kind: str) -> bool:
    """Return whether a published time informs about a kind: a step is the sum of its ops."""
    return row_kind.endswith(kind) or (kind == "step" and row_kind == "op")


@dataclass(frozen=True)
class Band:
    """A margin and its regime."""

    regime: str
    margin: float
    """Relative: the true value is between figure / (1 + margin) and figure * (1 + margin)."""

    def to_dict(self, name: str, value: float) -> JsonObject:
        """Return the entries to add to a report for the figure ``name``."""
        factor = 1 + self.margin
        return {
            f"{name}_band": [value / factor, value * factor],
            f"{name}_margin": self.margin,
            f"{name}_regime": self.regime,
        }


def bands_of(figures: JsonObject, conditions: Conditions) -> JsonObject:
    """Return the bands of a report's two main figures."""
    found: JsonObject = {}
    for name, kind in (("decode_step_s", "step"), ("time_to_first_token_s", "first token")):
        found |= band(kind, conditions).to_dict(name, figures[name])
    return found


def band(kind: str, conditions: Conditions) -> Band:
    """Return the band of a ``step`` or a ``first token``."""
    regime = conditions.regime(kind)
    of_length = f"long {kind}" if conditions.n_tokens >= _LONG_FROM else kind
    margin = max(_LEAST[regime], _quantile(_errors(of_length, regime, conditions.system)))
    return Band(regime, round(margin, 3))


def _errors(kind: str, regime: str, system: str) -> list[float]:
    rows = [row for row in _rows() if row["kind"] == kind]
    if regime == "calibrated":
        return [
            row["error"]
            for row in rows
            if row["left_out"] == "" and row["system"] == system and not row["changed"]
        ]
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
def _rows() -> tuple[JsonObject, ...]:
    return tuple(json.loads(LEFT_OUT.read_text("utf-8")))
