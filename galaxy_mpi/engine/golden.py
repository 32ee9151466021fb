"""Tokens that a run should give, kept in a file: ``decode --golden FILE``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.errors import ConfigError

__all__ = ["Golden"]


@dataclass(frozen=True)
class Golden:
    """The tokens of a file that ``decode --json`` wrote."""

    path: Path
    tokens: list[list[int]]

    @classmethod
    def read(cls, path: Path) -> "Golden":
        """Read a file.

        Raises
        ------
        ConfigError
            If it is none of ours.
        """
        try:
            tokens = json.loads(path.read_text("utf-8"))["tokens"]
            assert all(isinstance(token, int) for user in tokens for token in user)
        except OSError as error:
            raise ConfigError(
                f"--golden {path}: {error.strerror}; --update-golden makes it"
            ) from None
        except (ValueError, KeyError, TypeError, AssertionError):
            raise ConfigError(f"--golden {path} is no file that decode --json wrote") from None
        return cls(path, tokens)

    def differences(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return a table of the users that differ; empty if none does."""
        rows = []
        for user in range(max(len(tokens), len(self.tokens))):
            if user >= len(tokens) or user >= len(self.tokens):
                here = "is in the file only" if user >= len(tokens) else "is not in the file"
                rows.append(f"{user:>4}  {here}")
                continue
            ours, right = list(tokens[user]), self.tokens[user]
            if ours != right:
                at = next(
                    (
                        n
                        for n, pair in enumerate(zip(ours, right, strict=False))
                        if len({*pair}) > 1
                    ),
                    min(len(ours), len(right)),
                )
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
