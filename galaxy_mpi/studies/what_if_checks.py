"""Limits of what can be estimated: each value of a `WhatIf` by itself."""

from typing import TYPE_CHECKING

from galaxy_mpi.config import MAX_USERS, MOST_BUFFER_BYTES
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.models.config import MOST_LAYERS
from galaxy_mpi.studies.asked_systems import SAMPLINGS

if TYPE_CHECKING:
    from galaxy_mpi.studies.what_if import WhatIf

__all__ = ["MAX_TOKENS", "PREFILLS", "NeverError", "check_values"]

MAX_TOKENS = 131_072
PREFILLS = ("one", "all")


class NeverError(ConfigError):
    """A value cannot be used, whatever the model and the machine."""


def check_values(asked: "WhatIf") -> None:
    """Raise if a value cannot be used, whatever the model and the machine.

    Raises
    ------
    NeverError
        It names the option and what it may be.
    """
    for name, value, most in (
        ("--users", asked.users, MAX_USERS),
        ("--input-tokens", asked.input_tokens, MAX_TOKENS),
        ("--new-tokens", asked.new_tokens, MAX_TOKENS),
        ("--links", asked.links, 16),
        ("--layers", asked.layers, MOST_LAYERS),
        ("--circular-buffer-bytes", asked.circular_buffer_bytes, MOST_BUFFER_BYTES),
        ("--lengths", max(asked.lengths or (1,)), MAX_TOKENS),
        ("--lengths", min(asked.lengths or (1,)), MAX_TOKENS),
        ("the number of --lengths", len(asked.lengths or (1,)), MAX_USERS),
        ("--cached-percent", asked.cached_percent + 1, 100),
    ):
        if value is not None and not 1 <= value <= most:
            raise NeverError(f"{name} must be 1 to {most}, got {value}")
    if asked.precision not in ("performance", "accuracy"):
        raise NeverError(
            f"--precision: no {asked.precision!r} on the device; choose performance, accuracy"
        )
    if asked.topology not in (None, "ring", "line"):
        raise NeverError(f"--topology: no {asked.topology!r}; choose ring, line")
    if asked.prefill not in PREFILLS:
        raise NeverError(f"--prefill is {' or '.join(PREFILLS)}, got {asked.prefill!r}")
    if asked.sampling not in (None, *SAMPLINGS):
        raise NeverError(f"--sampling is {' or '.join(SAMPLINGS)}, got {asked.sampling!r}")
    if asked.prefill == "all" and (asked.lengths is not None or asked.cached_percent):
        raise ConfigError("--lengths and --cached-percent need --prefill one")
