"""Formats and fidelities by group, layer by layer, from a file.

The form is that of tt_transformers' decoder configurations::

    {"decoders": {"0": {"precision_cfg": {"ff1_3": "bfp4", "wqkv": "bf16"},
                        "fidelity_cfg": {"li_ff1_3": "lofi"}},
                  "default": {...}}}

A layer has the groups that its entry names; what it does not name is as in ``default``, and what
that does not name is as in ``performance``. Keys may be written as there, in capitals
(``FF1_FF3``, ``BFP4``).

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``TensorGroup``, ``OpGroup``,
   ``parse_decoder_json``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, DType
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_json_fields, shown
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.systems.precision import OP_GROUPS, PRECISIONS, Precision

__all__ = ["TENSOR_GROUPS", "read_optimizations"]

TENSOR_GROUPS: dict[str, tuple[str, ...]] = {
    "ff1_3": ("gate_up_weight",),
    "ff2": ("down_weight",),
    "wqkv": ("query_key_value_weight",),
    "wo": ("output_weight",),
    "kv_cache": ("kv_cache",),
    "activation": ("activation", "prefill_residual"),
}
"""Which fields of `Precision` each group is."""

_FORMATS: dict[str, DType] = {"bfp4": BFP4, "bfp8": BFP8, "bf16": BF16}

_FIDELITIES = {
    "lofi": Fidelity.LOFI,
    "hifi2": Fidelity.HIFI2,
    "hifi4": Fidelity.HIFI4,
    # How sums are held differs between these; here they are always held in float32.
    "hifi2na": Fidelity.HIFI2,
    "hifi2fp16": Fidelity.HIFI2,
    "hifi4fp32": Fidelity.HIFI4,
}

_IN_CAPITALS = {"ff1_ff3": "ff1_3", "li_ff1_ff3": "li_ff1_3", "hifi2_na": "hifi2na"} | {
    "hifi2_fp16": "hifi2fp16",
    "hifi4_fp32": "hifi4fp32",
}
"""Names of the original's enumerations, where they differ from the values."""

_DEFAULT = "default"


def read_optimizations(path: Path, n_layers: int) -> Precision:
    """Read a file.

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
    layers_known = {str(layer) for layer in range(n_layers)}
    for number in decoders:
        if number != _DEFAULT and number not in layers_known:
            raise ConfigError(
                f"{where} names decoder {shown(number)}; the model has 0 to {n_layers - 1}, "
                f"and {_DEFAULT} stands for the others"
            )
    base = replace(PRECISIONS["performance"], name=path.stem)
    base = _changed(f"{where}, decoder {_DEFAULT}", base, decoders.get(_DEFAULT, {}))
    layers = tuple(
        _changed(f"{where}, decoder {layer}", base, decoders.get(str(layer), {}))
        for layer in range(n_layers)
    )
    return replace(base, layers=layers)


def _changed(where: str, base: Precision, entry: Any) -> Precision:
    """Return a precision with what an entry of the file says."""
    parts = _entry(where, entry, {"precision_cfg", "fidelity_cfg"})
    formats: dict[str, Any] = {}
    for group, value in _choices(where, parts.get("precision_cfg", {}), TENSOR_GROUPS, _FORMATS):
        formats |= dict.fromkeys(TENSOR_GROUPS[group], _FORMATS[value])
    fidelities = dict(base.fidelities)
    groups = dict.fromkeys(OP_GROUPS)
    for group, value in _choices(where, parts.get("fidelity_cfg", {}), groups, _FIDELITIES):
        fidelities[group] = _FIDELITIES[value]
    return replace(base, **formats, fidelities=tuple(sorted(fidelities.items())))


def _choices(
    where: str, given: Any, groups: dict[str, Any], values: dict[str, Any]
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
