"""Published device times with their sources."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import Fields, read_json_fields

__all__ = ["CALIBRATION", "LEFT_OUT", "MODELS", "MORE", "Measurement", "read_measurements"]

CALIBRATION = Path(__file__).parent / "published" / "timing.json"
"""Published times of the Galaxy, for fitting."""

MORE = Path(__file__).parent / "published" / "timing_more.json"
"""Times of links, long prefills, and the generic system on one, two and eight chips."""

MODELS = Path(__file__).parent / "published" / "timing_models.csv"
"""Those of many models, lengths and machines, of which as many are held out."""

LEFT_OUT = Path(__file__).parent / "published" / "left_out.json"
"""Errors of predictions by fits that leave a group out (`galaxy_mpi.calibrate --left-out`)."""


MAX_TOKENS = 131_072

_LEAST_S, _MOST_S = 1e-12, 1e6


@dataclass(frozen=True)
class Measurement:
    """One published time."""

    kind: str
    """``layer`` or ``tail`` for an op; ``decode`` or ``prefill`` for an end-to-end time."""
    name: str
    seconds: float
    source: str
    tokens: int = 0
    """Input tokens of an end-to-end time."""
    users: int = 32


def read_measurements(path: Path) -> list[Measurement]:
    """Read a file in the format of `CALIBRATION`.

    Raises
    ------
    ConfigError
        If it cannot be read or has a different format.
    """
    where = f"--golden {path}"
    content = read_json_fields(path, where, ConfigError, f"compare {CALIBRATION}")
    found = list(_measurements(content))
    if not found:
        raise ConfigError(f"{where} has no times; compare {CALIBRATION}")
    return found


def _measurements(content: Fields) -> Iterator[Measurement]:
    if "source" not in content:
        raise content.wrong("source", "an object that names the source of the times")
    source = content.object("source")
    ops = source.text("decode_ops", "")
    for kind, key in (("layer", "decode_layer_us"), ("tail", "decode_tail_us")):
        times_us = content.object(key)
        for name in times_us.names:
            yield Measurement(
                kind,
                name,
                times_us.number(name, above=_LEAST_S * 1e6, most=_MOST_S * 1e6) * 1e-6,
                ops,
            )
    for entry in content.objects("end_to_end"):
        tokens, users = _sizes(entry, "input_tokens")
        what = f"{entry.text('what')}, {tokens} tokens"
        seconds = entry.number("ms", above=_LEAST_S * 1e3, most=_MOST_S * 1e3) * 1e-3
        yield Measurement("decode", what, seconds, source.text("end_to_end"), tokens, users)
    for entry in content.objects("prefill_s"):
        tokens, users = _sizes(entry, "tokens")
        what, seconds = f"prefill, {tokens} tokens", entry.number("s", above=_LEAST_S, most=_MOST_S)
        yield Measurement("prefill", what, seconds, source.text("prefill"), tokens, users)


def _sizes(entry: Fields, tokens: str) -> tuple[int, int]:
    """Return tokens and users of a time, checked against the model's limits."""
    return entry.whole(tokens, most=MAX_TOKENS), entry.whole("users", most=32)
