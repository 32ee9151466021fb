"""How long users wait: for a place, for their first token, for each token after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.json_values import JsonObject

__all__ = ["Latency"]

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Latency:
    """The times of a run on one clock, by user.

    Parameters
    ----------
    n_tokens : sequence of int
        New tokens of each user.
    queue_s, first_token_s, last_token_s : mapping of int to float
        From the beginning of the run until a user's prefill began, until its first and its last
        token; a user without a token has none.
    total_s : float
        Until the run ended.
    """

    n_tokens: Sequence[int]
    queue_s: Mapping[int, float]
    first_token_s: Mapping[int, float]
    last_token_s: Mapping[int, float]
    total_s: float

    @property
    def per_token_s(self) -> list[float | None]:
        """Mean seconds between the tokens of each user; None for fewer than two."""
        return [
            (self.last_token_s[user] - self.first_token_s[user]) / (n - 1) if n > 1 else None
            for user, n in enumerate(self.n_tokens)
        ]

    def percentiles(self) -> dict[str, dict[str, float] | None]:
        """Return p50, p95 and p99 over the users of each time; None if no user has it.

        Between two users the percentile is interpolated.
        """
        users = range(len(self.n_tokens))
        times: dict[str, list[float]] = {
            "queue_wait_s": [self.queue_s[user] for user in users if user in self.queue_s],
            "time_to_first_token_s": list(self.first_token_s.values()),
            "per_token_s": [seconds for seconds in self.per_token_s if seconds is not None],
        }
        return {name: _percentiles(found) if found else None for name, found in times.items()}

    def to_dict(self) -> JsonObject:
        """Return the figures, with the unit in each name."""
        return {
            "run_s": self.total_s,
            "new_tokens_per_s": sum(self.n_tokens) / self.total_s if self.total_s else 0.0,
            "queue_wait_by_user_s": [self.queue_s.get(u) for u in range(len(self.n_tokens))],
            "per_token_by_user_s": self.per_token_s,
            "percentiles": self.percentiles(),
        }

    def rows(self, clock: str) -> list[tuple[str, str]]:
        """Return the same for people."""
        rows = [
            (
                f"{clock}: run",
                f"{_shown(self.total_s)}, {sum(self.n_tokens) / (self.total_s or 1):.1f} new "
                f"tokens/s, prefill included",
            )
        ]
        names = {
            "queue_wait_s": "wait for a place",
            "time_to_first_token_s": "first token",
            "per_token_s": "per token",
        }
        for name, found in self.percentiles().items():
            if found is not None and len(self.n_tokens) > 1:
                values = ", ".join(_shown(seconds) for seconds in found.values())
                rows.append((f"{clock}: {names[name]}", f"{values} (p50, p95, p99)"))
        return rows


def _percentiles(values: list[float]) -> dict[str, float]:
    found = np.percentile(np.array(values), PERCENTILES).tolist()
    return {f"p{of}": value for of, value in zip(PERCENTILES, found, strict=True)}


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
