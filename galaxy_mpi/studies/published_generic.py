"""Published times of the generic system with Llama-3.2-1B and 3B: the second calibration set."""

from dataclasses import replace
from functools import partial

from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.studies.datum import Datum, groups_of
from galaxy_mpi.studies.published_galaxy import read_more
from galaxy_mpi.studies.published_runs import Run
from galaxy_mpi.systems import PRECISIONS, Precision

__all__ = ["generic_times"]

_DEVICES = {"N150": "n150", "N300": "n300", "T3K": "t3000"}

_DECODED = (160, 228, 296)
"""Positions among 200 tokens after a prompt of 128."""


def generic_times() -> list[Datum]:
    """Return the times of the second set that are of the generic system."""
    found = []
    for record in read_more():
        name, value = record["id"], record["value"]
        part = name.split(".")
        if part[0] != "ttt":
            continue
        model = "llama3.2-1b" if "1B" in name else "llama3.2-3b"
        device = "T3K" if "t3k" in name else next(d for d in _DEVICES if f".{d}." in name)
        machine = _DEVICES[device]
        users = 32 if part[1] == "b32" else 1
        precision = PRECISIONS["accuracy" if part[1] == "accuracy" else "performance"]
        if part[1] == "prec":
            precision = _precision_of(name)
        mesh = {"n150": "1x1", "n300": "1x2", "t3000": "1x8"}[machine]
        run = Run(
            model, machine, mesh, "tt_transformers", precision, users, part[1] == "t3k"
        )  # fmt: skip
        system = "tt_transformers"
        if name.endswith("ttft"):
            found.append(
                Datum(
                    name,
                    value * 1e-3,
                    0.10,
                    partial(run.prefill_s, 128),
                    groups_of(machine, 128, model, system, "first token"),
                    record["source"],
                    roofline_s=partial(run.roofline_s, 128, 0),
                    mesh=mesh,
                )
            )
            continue
        seconds = value * 1e-3 if record["unit"] == "ms" else 1 / value
        of_formats = part[1] == "prec"
        found.append(
            Datum(
                name,
                seconds,
                0.015 if of_formats else 0.03,
                partial(run.step_s, _DECODED),
                groups_of(machine, 128, model, system, "step"),
                record["source"],
                compared="formats on the N300" if of_formats else "",
                roofline_s=partial(run.roofline_s, 32, 228),
                mesh=mesh,
                is_changed=of_formats or part[1] == "t3k",
            )
        )
    return found


def _precision_of(name: str) -> Precision:
    """Return the formats in a name like ``ttt.prec.1B.N300.ff13_bfp4.ff2_bf16.wo_bfp8...``."""
    formats = {"bfp4": BFP4, "bfp8": BFP8, "bf16": BF16}
    given = dict(part.split("_") for part in name.split(".") if "_" in part)
    fidelities = []
    for group, key in (("li_ff1_3", "ff13"), ("li_ff2", "ff2")):
        if given[key] == "bf16":
            fidelities.append((group, Fidelity.HIFI4))
    return replace(
        PRECISIONS["performance"],
        name=name,
        gate_up_weight=formats[given["ff13"]],
        down_weight=formats[given["ff2"]],
        output_weight=formats[given["wo"]],
        fidelities=tuple(fidelities),
    )
