"""What was run: command, resolved configuration, versions, collectives."""

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi import __version__
from galaxy_mpi.blas import blas_kernels
from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import codec_name
from galaxy_mpi.json_values import Json, JsonObject, JsonView
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.plane import Plane
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.systems import Modules, PassShape, System
from galaxy_mpi.timing import Machine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["config_of", "ran_rows", "versions", "what_ran"]

_LONG = ("prompts", "prompt_tokens", "argv")


def what_ran(
    run: RunConfig,
    programs: Programs,
    planes: Mapping[Axis, Plane],
    machine: Machine | None,
    sampling: SamplingParams | None,
    checksums: Mapping[str, str | None],
    product: str | None = None,
) -> JsonObject:
    """Return ``run`` of a report; see docs/json.md.

    Parameters
    ----------
    run : RunConfig
    programs : Programs
    planes : mapping of Axis to Plane
        Of this process.
    machine : Machine or None
        None if there is no device time.
    sampling : SamplingParams or None
        None if no token was chosen.
    checksums : mapping
        Of the model and of the tokenizer.
    product : str, optional
        What multiplied the largest weights, see `galaxy_mpi.engine.chips.Chips.product`.
    """
    system, one = run.emulated_system, PassShape.of_prompt(1)
    decode = (wire for _, wire in programs.decode().wires())
    prefill = (wire for _, wire in programs.prefill(one).wires())
    return {
        "argv": list(run.argv),
        "config": config_of(run),
        "sampling": None if sampling is None else asdict(sampling),
        "formats": programs.precision.key,
        "collectives": {
            "decode": system.decode_algorithms.ran_as(decode, planes),
            "prefill": system.prefill_algorithms.ran_as(prefill, planes),
        },
        "machine": None if machine is None else asdict(programs.on(machine)),
        "checksums": dict(checksums),
        "versions": versions() | ({} if product is None else {"product": product}),
    }


def config_of(settings: "DataclassInstance") -> JsonObject:
    """Return the fields of a settings dataclass as JSON values, without long ones."""
    return {
        field.name: _plain(getattr(settings, field.name))
        for field in fields(settings)
        if field.name not in _LONG
    }


def versions() -> dict[str, str]:
    """Return the versions of the software that computes."""
    return {
        "galaxy_mpi": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_kernels(),
        "codec": codec_name(),
    }


def ran_rows(ran: JsonView) -> list[tuple[str, str]]:
    """Return a short text form of it, without the command: (name, value) rows."""
    versions, sums = ran["versions"], ran["checksums"]
    return [
        (
            "versions",
            f"galaxy_mpi {versions['galaxy_mpi']}, codec {versions['codec']}, "
            f"numpy {versions['numpy']}, Python {versions['python']}",
        ),
        ("collectives", "; ".join(f"{m} {_counted(k)}" for m, k in ran["collectives"].items())),
        ("checksums", ", ".join(f"{name} {str(known)[:12]}" for name, known in sums.items())),
    ]


def _counted(words: Mapping[str, str]) -> str:
    """Return how most collectives ran, and the buffers of those that ran differently."""
    counts = Counter(words.values()).most_common()
    if not counts:
        return "none"
    usual, others = counts[0][0], counts[1:]
    named = [
        f"{word} ({', '.join(key for key, of in words.items() if of == word)})"
        for word, _ in others
    ]
    return ", ".join([usual, *named])


def _plain(value: object) -> Json:
    """Return a setting as a JSON value."""
    if isinstance(value, System):
        return value.name
    if isinstance(value, (Mesh, Path)):
        return str(value)
    if isinstance(value, Modules):
        return {field.name: getattr(value, field.name).__name__ for field in fields(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
