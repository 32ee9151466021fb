"""Lengths of prompts and answers: a fixed number, or a distribution."""

import math
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.errors import ConfigError

__all__ = ["Lengths"]

MOST = 2**20
"""More tokens than any model takes."""

FORMS = {"uniform": 2, "lognormal": 2}
"""Number of parameters of each distribution."""


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> Lengths.parse("--input-tokens", "500").draw(rng, 2).tolist()
    [500, 500]
    >>> drawn = Lengths.parse("--input-tokens", "uniform:3,5").draw(rng, 100)
    >>> sorted(set(drawn.tolist()))
    [3, 4, 5]
    """

    form: str
    """``number``, ``uniform`` (including both ends) or ``lognormal`` (median, and sigma of the
    logarithm)."""
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, option: str, text: str) -> "Lengths":
        """Read ``N``, ``uniform:A,B`` or ``lognormal:MEDIAN,SIGMA``.

        Raises
        ------
        ConfigError
            If it cannot be parsed; the message names the option.
        """
        form, colon, rest = text.partition(":")
        try:
            numbers = [float(word) for word in (rest if colon else text).split(",")]
        except ValueError:
            numbers = []
        wanted = FORMS.get(form) if colon else 1
        if len(numbers) != wanted or not all(map(math.isfinite, numbers)):
            raise ConfigError(
                f"{option} is a number, uniform:A,B or lognormal:MEDIAN,SIGMA, got {text!r}"
            )
        lengths = cls(form if colon else "number", *numbers)
        lengths._check(option, text)
        return lengths

    def draw(self, rng: np.random.Generator, n: int) -> Ints:
        """Draw ``n`` lengths of at least 1."""
        if self.form == "number":
            return np.full(n, int(self.first), np.int64)
        if self.form == "uniform":
            return rng.integers(int(self.first), int(self.second), n, endpoint=True)
        drawn = self.first * np.exp(self.second * rng.standard_normal(n))
        rounded: Ints = np.clip(np.rint(drawn), 1, MOST).astype(np.int64)
        return rounded

    def _check(self, option: str, text: str) -> None:
        counts = [self.first, self.second] if self.form == "uniform" else [self.first]
        if not all(1 <= count <= MOST and count == int(count) for count in counts):
            raise ConfigError(f"{option} must be whole numbers of 1 to {MOST} tokens, got {text!r}")
        if self.form == "uniform" and self.second < self.first:
            raise ConfigError(f"{option} uniform:A,B needs A at most B, got {text!r}")
        if self.form == "lognormal" and not 0 <= self.second <= 10:
            raise ConfigError(
                f"{option} lognormal:MEDIAN,SIGMA needs a sigma of 0 to 10, got {text!r}"
            )
