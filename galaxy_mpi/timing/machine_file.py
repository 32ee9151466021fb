"""Profiles of machines: YAML files with the unit and source of each constant."""

from collections.abc import Iterable, Set
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from galaxy_mpi.errors import ConfigError, MeshError
from galaxy_mpi.fields import read_bounded, shown
from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.timing.profiles import FOLDER, MACHINES

__all__ = [
    "A_COUNT",
    "COUNTS",
    "TOPOLOGIES",
    "Constant",
    "base_of",
    "is_count",
    "number_of",
    "overridden",
    "profile_path",
    "read_file",
]

TOPOLOGIES = ("ring", "line")

_REFERENCE = "wormhole_galaxy_6u"
"""The profile that has every constant with its unit."""

_MOST_BYTES = 2**20
_MOST_DEEP = 64

COUNTS = ("links", "worker_cores", "prefill_cores", "ring_cores")
"""Constants that are counts, see `is_count`."""

_MOST_COUNTED = 2**20

A_COUNT = f"a whole number from 1 to {_MOST_COUNTED}"


@dataclass(frozen=True)
class Constant:
    """One number of a profile with its source."""

    value: float
    unit: str
    source: str
    fitted: str = ""
    """The published times that determine it; empty if it was not fitted."""
    low: float = 0.0
    """Lower end of the range that the published times allow, if it was fitted."""
    high: float = 0.0


def read_file(name: str, wanted: Set[str]) -> tuple[JsonObject, dict[str, Constant]]:
    """Return name, mesh and topology of a profile, and its constants.

    Parameters
    ----------
    name : str
        Of a profile of the package, or a file.
    wanted : set of str
        Constants that it must have, and no others.

    Raises
    ------
    ConfigError
        If there is no such profile, or it lacks a constant, or one is unknown, no number or in
        another unit than in the profiles of the package.
    """
    path = FOLDER / f"{name}.yaml" if name in MACHINES else Path(name)
    profile = _read_yaml(path, name)
    base = profile.get("extends")
    if base is not None:
        if base not in MACHINES:
            raise ConfigError(f"machine {path} extends {shown(base)}; choose {', '.join(MACHINES)}")
        whole = _read_yaml(FOLDER / f"{base}.yaml", base)
        whole_constants = whole["constants"] | profile["constants"]
        profile = whole | profile | {"constants": whole_constants}
    head = {key: str(profile.get(key, ""))[:200] for key in ("name", "mesh", "topology")}
    if head["topology"] not in TOPOLOGIES:
        raise ConfigError(
            f"machine {path}: topology is {' or '.join(TOPOLOGIES)}, got {head['topology']!r}"
        )
    try:
        Mesh.parse(head["mesh"])
    except MeshError as error:
        raise ConfigError(f"machine {path}: {error}") from None
    found = profile["constants"]
    if wanted != set(found):
        missing = ", ".join(sorted(wanted - set(found)))
        wrong = [f"missing {missing}"] if missing else []
        wrong += [_unknown(key, wanted) for key in found if key not in wanted][:8]
        raise ConfigError(f"machine {path}: {'; '.join(wrong)}")
    constants = {key: _constant(path, key, value) for key, value in found.items()}
    if name not in MACHINES:
        for key, right in _read_yaml(profile_path(_REFERENCE), _REFERENCE)["constants"].items():
            unit = constants[key].unit
            if unit != right["unit"]:
                raise ConfigError(
                    f"machine {path}: {key} has unit {shown(unit)}; write it in {right['unit']}"
                )
    return head, constants


def base_of(name: str) -> str | None:
    """Return the profile of the package that a machine is, or that its file changes.

    Parameters
    ----------
    name : str
        Of a profile of the package, or a file, which ``extends`` one or has its name.

    Returns
    -------
    str or None
        None if the file is of another machine.

    Raises
    ------
    ConfigError
        If there is no such profile.
    """
    if name in MACHINES:
        return name
    profile = _read_yaml(Path(name), name)
    base: Json = profile.get("extends") or profile.get("name")
    return str(base) if base in MACHINES else None


def overridden(name: str) -> frozenset[str]:
    """Return the constants that a profile of the package states itself."""
    return frozenset(_read_yaml(profile_path(name), name)["constants"])


def profile_path(name: str) -> Path:
    """Return the file of a profile of the package."""
    return FOLDER / f"{name}.yaml"


def number_of(value: Json) -> float | None:
    """Return a constant, None if invalid. To YAML, 125e+9 is text, because it has no point."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < 1e30 else None


def is_count(value: float) -> bool:
    """Return whether a machine can have so many links or cores."""
    return 1 <= value <= _MOST_COUNTED and value == int(value)


def _unknown(key: Json, wanted: Set[str]) -> str:
    """Return the message about a key that is no constant."""
    near = get_close_matches(str(key)[:80], wanted, 1)
    advice = f"did you mean {near[0]}?" if near else f"compare {profile_path(_REFERENCE)}"
    return f"no constant {shown(key)}; {advice}"


def _read_yaml(path: Path, name: str) -> JsonObject:
    import yaml  # imported here because only one rank reads profiles

    try:
        text = read_bounded(path, _MOST_BYTES).decode("utf-8")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where the library has it
        _check_events(yaml.parse(text, loader))
        profile = yaml.load(text, loader)
    except OSError:
        raise ConfigError(
            f"no machine {shown(name)}; choose {', '.join(MACHINES)} or name a YAML file"
        ) from None
    # The library also raises other errors, for invalid dates or keys that are lists.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        what = " ".join(str(error).split())[:300]
        raise ConfigError(f"machine {path} is not readable YAML: {what}") from None
    if not isinstance(profile, dict) or not isinstance(profile.get("constants"), dict):
        raise ConfigError(f"machine {path} has no `constants`; compare {FOLDER / MACHINES[0]}.yaml")
    return profile


def _check_events(events: Iterable[Any]) -> None:
    """Reject what YAML allows and no profile needs.

    Ten lines of aliases can make a billion values; deep nesting ends the stack; of a key that is
    there twice, the library silently takes the last.

    Raises
    ------
    ValueError
        If a file has one of them.
    """
    # Of each mapping around an event: its keys, and whether a key is next; of a sequence: None.
    around: list[tuple[set[str], bool] | None] = []
    for event in events:
        kind, line = type(event).__name__, event.start_mark.line + 1
        if kind == "AliasEvent":
            raise ValueError(f"it has an alias (*) in line {line}; write it out")
        if kind in ("MappingEndEvent", "SequenceEndEvent"):
            around.pop()
        elif kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent"):
            if around and around[-1] is not None:
                keys, is_key = around[-1]
                if is_key and kind == "ScalarEvent":
                    if event.value in keys:
                        raise ValueError(f"{shown(event.value)} in line {line} is there twice")
                    keys.add(event.value)
                around[-1] = keys, not is_key
            if kind != "ScalarEvent":
                around.append((set(), True) if kind == "MappingStartEvent" else None)
        if len(around) > _MOST_DEEP:
            raise ValueError(f"line {line} is nested deeper than {_MOST_DEEP} levels")


def _constant(path: Path, key: str, entry: Json) -> Constant:
    given = entry if isinstance(entry, dict) else {}
    value: Json = given.get("value")
    if isinstance(value, str):
        # To YAML, 125e+9 is text, because it has no point.
        with suppress(ValueError):
            value = float(value)
    is_number = type(value) in (int, float) and 0 < value <= 1e30
    if not is_number or (key in COUNTS and not is_count(value)):
        wanted = A_COUNT if key in COUNTS else "a value above 0"
        raise ConfigError(f"machine {path}: {key} needs {wanted}, got {shown(value)}")
    words = {name: given.get(name, "") for name in ("unit", "source", "fitted")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ConfigError(f"machine {path}: unit, source and fitted of {key} must be text")
    if not words["unit"] or not words["source"]:
        raise ConfigError(f"machine {path}: {key} needs a unit and a source")
    bounds = given.get("range", [0.0, 0.0])
    is_pair = isinstance(bounds, (list, tuple)) and len(bounds) == 2
    low, high = map(_bound, bounds) if is_pair else (None, None)
    if low is None or high is None:
        raise ConfigError(f"machine {path}: the range of {key} is two numbers, got {shown(bounds)}")
    return Constant(float(value), words["unit"], words["source"], words["fitted"], low, high)


def _bound(value: Json) -> float | None:
    """Return one end of a range; 0 if it was not fitted."""
    return 0.0 if type(value) in (int, float) and value == 0 else number_of(value)
