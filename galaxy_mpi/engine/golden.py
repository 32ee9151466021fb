"""Expected tokens of a run, from a file: ``decode --golden FILE``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_json_fields

__all__ = ["Golden"]

_MOST_BYTES = 2**30
"""Of a run with a million tokens and all its text."""


@dataclass(frozen=True)
class Golden:
    """The tokens of a file written by ``decode --json``."""

    path: Path
    tokens: list[list[int]]

    @classmethod
    def read(cls, path: Path) -> "Golden":
        """Read a file.

        Raises
        ------
        ConfigError
            If it cannot be read or has another format.
        """
        where, advice = f"--golden {path}", "--update-golden writes it"
        tokens = read_json_fields(path, where, ConfigError, advice, _MOST_BYTES).raw("tokens")
        are_lists = isinstance(tokens, list) and all(isinstance(user, list) for user in tokens)
        if not are_lists or not all(isinstance(token, int) for user in tokens for token in user):
            raise ConfigError(f"{where} was not written by decode --json")
        return cls(path, tokens)

    def first_different(self, user: int, tokens: Sequence[int]) -> int | None:
        """Return the place of the first token that is not as in the file; None if none is."""
        right = self.tokens[user] if user < len(self.tokens) else []
        places = (n for n, pair in enumerate(zip(tokens, right, strict=False)) if len({*pair}) > 1)
        return next(places, None if len(tokens) == len(right) else min(len(tokens), len(right)))

    def differences(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return a table of the users whose tokens differ; empty if there are none.

        If a run is only shorter or longer than the file, that is one line.
        """
        if self._differs_in_length(tokens):
            lengths = [max(map(len, users)) for users in (self.tokens, tokens)]
            return [
                f"{self.path} has {lengths[0]} tokens per user, this run {lengths[1]} "
                f"(--max-new-tokens); the first {min(lengths)} are the same"
            ]
        rows = []
        for user in range(max(len(tokens), len(self.tokens))):
            if user >= len(tokens) or user >= len(self.tokens):
                here = "only in the file" if user >= len(tokens) else "not in the file"
                rows.append(f"{user:>4}  {here}")
                continue
            ours, right = list(tokens[user]), self.tokens[user]
            at = self.first_different(user, ours)
            if at is not None:
                shown = [str(t[at]) if at < len(t) else "-" for t in (right, ours)]
                rows.append(f"{user:>4}{at:>14}{shown[0]:>10}{shown[1]:>10}")
        if not rows:
            return []
        n_users = max(len(tokens), len(self.tokens))
        return [
            f"{len(rows)} of {n_users} users differ from {self.path}",
            f"{'user':>4}{'first at':>14}{'golden':>10}{'here':>10}",
            *rows,
        ]

    def _differs_in_length(self, tokens: Sequence[Sequence[int]]) -> bool:
        """Return whether all users have the same tokens, up to where those of one side end."""
        if len(tokens) != len(self.tokens) or not tokens:
            return False
        of_file, here = (max(map(len, users)) for users in (self.tokens, tokens))
        n = min(of_file, here)
        return of_file != here and all(
            list(ours[:n]) == right[:n] for ours, right in zip(tokens, self.tokens, strict=True)
        )
