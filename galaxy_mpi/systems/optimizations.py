"""Formats and fidelities by group, layer by layer, from a file.

The file has the form and meaning of tt_transformers' decoder configurations::

    {"decoders": {"0": {"precision_cfg": {"FF1_FF3": "BFP4", "WQKV": "BF16"},
                        "fidelity_cfg": {"LI_FF1_FF3": "LOFI"}},
                  "default": {...}}}

For a layer with an entry, groups that the entry does not name are bfp8 and HiFi2
(`galaxy_mpi.systems.settings.DEFAULT`), whatever the model; so an empty ``precision_cfg`` means all
of these. If an entry has no ``precision_cfg`` or no ``fidelity_cfg`` at all, that part is as for a
layer without an entry. A layer without an entry has the model's setting without a file:
``accuracy`` if the file name begins with that, else ``performance``. Entries for layers that the
model does not have are ignored.

Extensions: the entry ``default`` applies to layers without one, and names may be lower-case
(``ff1_3``, ``bfp4``). The original does not define layers after the last entry; here they are like
other layers without an entry.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``TensorGroup``, ``OpGroup``,
   ``parse_decoder_json``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from galaxy_mpi.dtypes import DType
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_json_fields, shown
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.systems.formats import FORMAT_NAMES
from galaxy_mpi.systems.precision import OP_GROUPS
from galaxy_mpi.systems.settings import DEFAULT, Setting

__all__ = ["TENSOR_GROUPS", "default_name", "optimizations_json", "read_optimizations"]

TENSOR_GROUPS = tuple(DEFAULT.formats)
"""Groups of tensors whose format a file can set."""

_UNSET = "mixed"
"""Value of ``activation`` that leaves each tensor as in the system's table."""

_NOT_HERE = "accuracy"
"""An op group of the original that no op of a text model uses."""

_FIDELITIES = {
    "lofi": Fidelity.LOFI,
    "hifi2": Fidelity.HIFI2,
    "hifi4": Fidelity.HIFI4,
    # These differ in how sums are accumulated; here it is always float32.
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
"""Enumeration names of the original that differ from the values."""

_DEFAULT = "default"

_EXAMPLE = '{"decoders": {"0": {"precision_cfg": {"FF1_FF3": "BFP4"}}}}'
"""The shortest file that changes something, for messages."""


def default_name(path: Path) -> str:
    """Return the precision of layers without an entry, by the name of the file."""
    return "accuracy" if path.stem.startswith("accuracy") else "performance"


def read_optimizations(path: Path, n_layers: int, base: Setting) -> list[Setting]:
    """Read a file.

    Parameters
    ----------
    path : Path
    n_layers : int
        Of the model.
    base : Setting
        Setting of layers without an entry.

    Returns
    -------
    list of Setting
        One per layer.

    Raises
    ------
    ConfigError
        If it cannot be read or has unknown names; the message lists the valid ones.
    """
    where, decoders = _decoders(path)
    for number in decoders:
        if number != _DEFAULT and not (number.isascii() and number.isdecimal()):
            raise ConfigError(
                f"{where} names decoder {shown(number)}; name decoders by number, "
                f"and all others with {_DEFAULT}"
            )
        if number.startswith("0") and number != "0":
            raise ConfigError(
                f"{where} names decoder {shown(number)}; write numbers without leading zeros"
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


def ignored_decoders(path: Path, n_layers: int) -> str | None:
    """Return a note on the decoders of a file that a model does not have, if there are any.

    Files of the original name decoders beyond the last layer, so they are no error.
    """
    where, decoders = _decoders(path)
    numbers = sorted(int(number) for number in decoders if number.isdecimal())
    beyond = [number for number in numbers if number >= n_layers]
    if not beyond:
        return None
    what = f"decoder {beyond[0]}" if len(beyond) == 1 else f"decoders {beyond[0]} to {beyond[-1]}"
    return f"{where}: {what} ignored, because this run has {n_layers} layers, 0 to {n_layers - 1}"


def _decoders(path: Path) -> tuple[str, dict[str, object]]:
    """Return the name of a file in messages, and its entries by decoder."""
    where = f"--optimizations {path}"
    advice = "choose performance, accuracy or a JSON file"
    content = read_json_fields(path, where, ConfigError, advice, are_keys_unique=True)
    decoders = _entry(where, content.to_dict(), {"decoders"}).get("decoders")
    if not isinstance(decoders, dict):
        raise ConfigError(f'{where} has no object "decoders"; a file is for example {_EXAMPLE}')
    return where, decoders


def optimizations_json(layers: Sequence[Setting]) -> str:
    """Return the content of a file with the settings of all layers, in the original's names.

    Parameters
    ----------
    layers : sequence of Setting
        One per layer.
    """
    names = {dtype: name.upper() for name, dtype in FORMAT_NAMES.items()}
    capitals = {ours: original.upper() for original, ours in _IN_CAPITALS.items()}
    entries = []
    for number, layer in enumerate(layers):
        entry: dict[str, dict[str, str]] = {"precision_cfg": {}, "fidelity_cfg": {}}
        for group, dtype in layer.formats.items():
            if dtype is not None:  # activation: as in the table
                entry["precision_cfg"][capitals.get(group, group.upper())] = names[dtype]
        for group, fidelity in layer.fidelities.items():
            entry["fidelity_cfg"][capitals.get(group, group.upper())] = fidelity.name
        entries.append(f'"{number}": {json.dumps(entry)}')
    return '{"decoders": {\n' + ",\n".join(entries) + "\n}}\n"


def _parts(
    where: str, entry: object
) -> tuple[dict[str, DType | None] | None, dict[str, Fidelity] | None]:
    """Return both parts of an entry; None for a missing one."""
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
    where: str, given: object, groups: tuple[str, ...], values: Mapping[str, object]
) -> list[tuple[str, str]]:
    """Return the validated pairs of a table, in lower case."""
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


def _entry(where: str, value: object, known: set[str] | None) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {shown(value)}")
    for key in value:
        if known is not None and key not in known:
            raise ConfigError(f"{where}: no key {shown(key)}; choose {', '.join(sorted(known))}")
    return value
