"""Bounds on accuracy: ``top1>=95``, ``perplexity<=20``; and which of two precisions is better."""

import re
from dataclasses import dataclass

from galaxy_mpi.engine.quality import Quality
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import shown

__all__ = ["METRICS", "Goal", "check_metric", "merit"]

METRICS = ("top1", "top5", "pcc", "perplexity", "kl")

_LESS_IS_BETTER = ("perplexity", "kl")

_SHARES = ("top1", "top5")
"""Goals that are given in percent."""


@dataclass(frozen=True)
class Goal:
    """A bound that a figure must meet."""

    metric: str
    bound: float
    """Shares in percent."""

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Return the goal of a text.

        Raises
        ------
        ConfigError
            If it is none.

        Examples
        --------
        >>> Goal.parse("top1>=95")
        Goal(metric='top1', bound=95.0)
        """
        found = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*", text)
        if found is None:
            raise ConfigError(
                f"--target is for example top1>=95 or perplexity<=20, got {shown(text)}"
            )
        metric = check_metric("--target", found[1])
        sense = "<=" if metric in _LESS_IS_BETTER else ">="
        if found[2] != sense:
            raise ConfigError(f"--target: {metric} can be bounded by {sense}, got {shown(text)}")
        return cls(metric, float(found[3]))

    def is_met(self, quality: Quality) -> bool:
        """Return whether a precision has what is asked for."""
        if self.metric in _LESS_IS_BETTER:
            return self.value(quality) <= self.bound
        return self.value(quality) >= self.bound

    def value(self, quality: Quality) -> float:
        """Return the figure, in the unit of the bound."""
        value: float = getattr(quality, self.metric)
        return 100 * value if self.metric in _SHARES else value

    def __str__(self) -> str:
        sense = "<=" if self.metric in _LESS_IS_BETTER else ">="
        return f"{self.metric}{sense}{self.bound:g}"


def check_metric(option: str, name: str) -> str:
    """Return the name of a metric.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in METRICS:
        raise ConfigError(f"{option}: no metric {shown(name)}; choose {', '.join(METRICS)}")
    return name


def merit(metric: str, quality: Quality) -> float:
    """Return a figure so that more is better."""
    value: float = getattr(quality, metric)
    return -value if metric in _LESS_IS_BETTER else value
