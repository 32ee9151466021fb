"""Formats and fidelities by group, layer by layer, from a file.

The form is that of tt_transformers' decoder configurations, and so is what it means::

    {"decoders": {"0": {"precision_cfg": {"FF1_FF3": "BFP4", "WQKV": "BF16"},
                        "fidelity_cfg": {"LI_FF1_FF3": "LOFI"}},
                  "default": {...}}}

A layer that is named has the groups that its entry names, and for the others all weights and the
cache in bfp8 and HiFi2 (`galaxy_mpi.systems.settings.DEFAULT`), whatever the model: an empty
``precision_cfg`` means just that. Where an entry has no ``precision_cfg`` or ``fidelity_cfg`` at
all, the whole part is as in a layer that is not named, and such a layer has what the model has
without a file: ``accuracy`` if the file's name begins with that, else ``performance``. A layer
that the model does not have is no error.

Ours: ``default`` stands for layers that are not named; and names may be written in small letters
(``ff1_3``, ``bfp4``). The original has nothing for layers behind the last that is named; here they
are as those that are not named.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``TensorGroup``, ``OpGroup``,
   ``parse_decoder_json``.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galaxy_mpi.dtypes import DType
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_json_fields, shown
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.systems.formats import FORMAT_NAMES
from galaxy_mpi.systems.precision import OP_GROUPS
from galaxy_mpi.systems.settings import DEFAULT, Setting

__all__ = ["TENSOR_GROUPS", "default_name", "optimizations_json", "read_optimizations"]

TENSOR_GROUPS = tuple(DEFAULT.formats)
"""Groups of tensors that a file gives a format."""

_UNSET = "mixed"
"""Of ``activation``: each tensor as the system's table says."""

_NOT_HERE = "accuracy"
"""An op group of the original that no op of a text model has."""

_FIDELITIES = {
    "lofi": Fidelity.LOFI,
    "hifi2": Fidelity.HIFI2,
    "hifi4": Fidelity.HIFI4,
    # How sums are held differs between these; here they are always held in float32.
    "hifi2na": Fidelity.HIFI2,
    "hifi2fp16": Fidelity.HIFI2,
    "hifi2nol1acc": Fidelity.HIFI2,
    "hifi4fp32": Fidelity.HIFI4,
}

_IN_CAPITALS = {"ff1_ff3": "ff1_3", "li_ff1_ff3": "li_ff1_3", "hifi2_na": "hifi2na"} | {
    "hifi2_fp16": "hifi2fp16",
    "hifi2_nol1acc": "hifi2nol1acc",
    "hifi4_fp32": "hifi4fp32",
}
"""Names of the original's enumerations, where they differ from the values."""

_DEFAULT = "default"


def default_name(path: Path) -> str:
    """Return what layers have that a file does not name: by the name of the file."""
    return "accuracy" if path.stem.startswith("accuracy") else "performance"


def read_optimizations(path: Path, n_layers: int, base: Setting) -> list[Setting]:
    """Read a file.

    Parameters
    ----------
    path : Path
    n_layers : int
        Of the model.
    base : Setting
        Of layers that are not named.

    Returns
    -------
    list of Setting
        One a layer.

    Raises
    ------
    ConfigError
        If it cannot be read, or names what there is not; the message lists what there is.
    """
    where = f"--optimizations {path}"
    advice = "choose performance, accuracy or a JSON file"
    content = read_json_fields(path, where, ConfigError, advice).to_dict()
    decoders = _entry(where, content, {"decoders"}).get("decoders")
    if not isinstance(decoders, dict):
        raise ConfigError(f'{where} has no "decoders"; compare galaxy_mpi.systems.optimizations')
    for number in decoders:
        if number != _DEFAULT and not (number.isascii() and number.isdecimal()):
            raise ConfigError(
                f"{where} names decoder {shown(number)}; decoders have numbers, "
                f"and {_DEFAULT} stands for the others"
            )
    entries = {
        number: _parts(f"{where}, decoder {number}", entry) for number, entry in decoders.items()
    }
    formats, fidelities = entries.pop(_DEFAULT, (None, None))
    base = base.but(formats, fidelities)
    layers = [base] * n_layers
    for layer in range(n_layers):
        if str(layer) in entries:
            formats, fidelities = entries[str(layer)]
            layers[layer] = Setting(
                base.formats if formats is None else {**DEFAULT.formats, **formats},
                base.fidelities if fidelities is None else {**DEFAULT.fidelities, **fidelities},
            )
    return layers


def optimizations_json(layers: Sequence[Setting]) -> str:
    """Return a file that says what layers have, complete and in the original's names.

    Parameters
    ----------
    layers : sequence of Setting
        One a layer.
    """
    names = {dtype: name.upper() for name, dtype in FORMAT_NAMES.items()}
    capitals = {ours: original.upper() for original, ours in _IN_CAPITALS.items()}
    entries = []
    for number, layer in enumerate(layers):
        entry: dict[str, dict[str, str]] = {"precision_cfg": {}, "fidelity_cfg": {}}
        for group, dtype in layer.formats.items():
            if dtype is not None:  # activation: as the table says
                entry["precision_cfg"][capitals.get(group, group.upper())] = names[dtype]
        for group, fidelity in layer.fidelities.items():
            entry["fidelity_cfg"][capitals.get(group, group.upper())] = fidelity.name
        entries.append(f'"{number}": {json.dumps(entry)}')
    return '{"decoders": {\n' + ",\n".join(entries) + "\n}}\n"


def _parts(
    where: str, entry: Any
) -> tuple[dict[str, DType | None] | None, dict[str, Fidelity] | None]:
    """Return both parts of an entry; None for one that it does not have."""
    parts = _entry(where, entry, {"precision_cfg", "fidelity_cfg"})
    formats: dict[str, DType | None] | None = None
    fidelities: dict[str, Fidelity] | None = None
    if "precision_cfg" in parts:
        formats = {}
        known = {**FORMAT_NAMES, _UNSET: None}
        for group, value in _choices(where, parts["precision_cfg"], TENSOR_GROUPS, known):
            if value == _UNSET and group != "activation":
                raise ConfigError(f"{where}: only activation can be {_UNSET}, not {group}")
            formats[group] = known[value]
    if "fidelity_cfg" in parts:
        given = _choices(where, parts["fidelity_cfg"], (*OP_GROUPS, _NOT_HERE), _FIDELITIES)
        fidelities = {group: _FIDELITIES[value] for group, value in given if group != _NOT_HERE}
    return formats, fidelities


def _choices(
    where: str, given: Any, groups: tuple[str, ...], values: dict[str, Any]
) -> list[tuple[str, str]]:
    """Return the pairs of a table, in small letters, each known."""
    pairs = []
    for group, value in _entry(where, given, None).items():
        name = _IN_CAPITALS.get(group.lower(), group.lower())
        choice = value.lower() if isinstance(value, str) else ""
        choice = _IN_CAPITALS.get(choice, choice)
        if name not in groups:
            raise ConfigError(f"{where}: no group {shown(group)}; choose {', '.join(groups)}")
        if choice not in values:
            raise ConfigError(f"{where}: {group} is {shown(value)}; choose {', '.join(values)}")
        pairs.append((name, choice))
    return pairs


def _entry(where: str, value: Any, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {shown(value)}")
    for key in value:
        if known is not None and key not in known:
            raise ConfigError(f"{where}: no key {shown(key)}; choose {', '.join(sorted(known))}")
    return value
