"""Published device times, each with its source, and how a modelled one compares."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galaxy_mpi.errors import ConfigError

__all__ = ["CALIBRATION", "LEFT_OUT", "MORE", "Measurement", "read_measurements"]

CALIBRATION = Path(__file__).parent / "published" / "timing.json"
"""Published times of the Galaxy that constants may be fitted to."""

MORE = Path(__file__).parent / "published" / "timing_more.json"
"""Those of links, long prefills, and the generic system on one, two and eight chips."""


LEFT_OUT = Path(__file__).parent / "published" / "left_out.json"
"""Errors of predictions by fits that leave a group out (`galaxy_mpi.calibrate --left-out`)."""


@dataclass(frozen=True)
class Measurement:
    """One published time."""

    kind: str
    """``layer`` or ``tail`` for an op, ``decode`` or ``prefill`` end to end."""
    name: str
    seconds: float
    source: str
    tokens: int = 0
    """Input tokens, for end to end."""
    users: int = 32

    def __post_init__(self) -> None:
        least_tokens = 1 if self.kind in ("decode", "prefill") else 0
        if not (self.seconds > 0 and self.tokens >= least_tokens and 1 <= self.users <= 32):
            raise ConfigError(
                f"published time {self.name!r}: needs a time above 0, 1 token or more and 1 to 32 "
                f"users, got {self.seconds} s, {self.tokens} tokens, {self.users} users"
            )


def read_measurements(path: Path) -> list[Measurement]:
    """Read a file of the form of `CALIBRATION`.

    Raises
    ------
    ConfigError
        If it cannot be read or is of another form.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        found = list(_measurements(content, content["source"]))
    except ConfigError as error:
        raise ConfigError(f"--golden {path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"--golden {path}: {error.strerror}; compare {CALIBRATION}") from None
    except ValueError as error:
        raise ConfigError(
            f"--golden {path} is not readable JSON: {error}; compare {CALIBRATION}"
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--golden {path} has another form (lacks {error}); compare {CALIBRATION}"
        ) from None
    if not found:
        raise ConfigError(f"--golden {path} has no times; compare {CALIBRATION}")
    return found


def _measurements(content: dict[str, Any], source: dict[str, str]) -> Iterator[Measurement]:
    ops = source.get("decode_ops", "")
    for kind, key in (("layer", "decode_layer_us"), ("tail", "decode_tail_us")):
        for name, micros in content.get(key, {}).items():
            yield Measurement(kind, name, micros * 1e-6, ops)
    for entry in content.get("end_to_end", []):
        what = f"{entry['what']}, {entry['input_tokens']} tokens"
        seconds, tokens = entry["ms"] * 1e-3, entry["input_tokens"]
        yield Measurement("decode", what, seconds, source["end_to_end"], tokens, entry["users"])
    for entry in content.get("prefill_s", []):
        what, tokens = f"prefill, {entry['tokens']} tokens", entry["tokens"]
        yield Measurement("prefill", what, entry["s"], source["prefill"], tokens, entry["users"])
