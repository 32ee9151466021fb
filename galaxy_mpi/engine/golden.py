"""Expected tokens of a run, from a file: ``decode --golden FILE``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.errors import ConfigError

__all__ = ["Golden"]


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
            If it has another format.
        """
        try:
            tokens = json.loads(path.read_text("utf-8"))["tokens"]
            assert all(isinstance(token, int) for user in tokens for token in user)
        except OSError as error:
            raise ConfigError(
                f"--golden {path}: {error.strerror}; --update-golden writes it"
            ) from None
        except (ValueError, KeyError, TypeError, AssertionError):
            raise ConfigError(f"--golden {path} was not written by decode --json") from None
        return cls(path, tokens)

    def first_different(self, user: int, tokens: Sequence[int]) -> int | None:
        """Return the place of the first token that is not as in the file; None if none is."""
        right = self.tokens[user] if user < len(self.tokens) else []
        places = (n for n, pair in enumerate(zip(tokens, right, strict=False)) if len({*pair}) > 1)
        return next(places, None if len(tokens) == len(right) else min(len(tokens), len(right)))

    def differences(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return a table of the users whose tokens differ; empty if there are none."""
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
