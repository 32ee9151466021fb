"""Every published time together with a function that models it, for fits and validation.

A *datum* belongs to groups (machine, length, model, system, kind); a fit that leaves out a group
predicts its times. Steps and passes are evaluated with 2 and 4 layers and extrapolated linearly,
because all layers take the same time.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PRECISIONS, PassShape, Precision, system_of
from galaxy_mpi.timing import Costs, Estimator, Machine
from galaxy_mpi.timing.published import CALIBRATION, MORE

__all__ = ["GROUPS", "Datum", "Machines", "published_times", "sampled_on_chip"]

GROUPS = ("machine", "length", "model", "system", "kind")

Machines = Mapping[str, Machine]
"""By profile name."""

_DEVICES = {"N150": "n150", "N300": "n300", "T3K": "t3000"}

_GALAXY = "wormhole_galaxy_6u"


@dataclass(frozen=True)
class Datum:
    """One published time."""

    name: str
    seconds: float
    margin: float
    """Relative; from the target file, or the spread between runs."""
    model_s: Callable[[Machines], float]
    groups: Mapping[str, str]
    source: str
    compared: str = ""
    """Name of a set of which only the differences count; its common factor is removed."""
    is_fitted: bool = True
    """Whether constants are fitted to it. Link times are not: they are measured constants."""
    roofline_s: Callable[[Machines], float] | None = None
    """The longer of bytes over bandwidth and flops over peak."""


@cache
def published_times() -> tuple[Datum, ...]:
    """Return all published times of the package."""
    return (*_galaxy_times(), *_generic_times(), *_prefill_ops(), *_links())


# --- the Galaxy


@cache
def _programs(
    model: str,
    n_layers: int,
    mesh: str,
    system: str,
    precision: Precision,
    users: int,
    on_chip: bool = False,
) -> Programs:
    sizes, on = replace(PRESETS[model], n_layers=n_layers), Mesh.parse(mesh)
    emulated = system_of(system, on)
    if on_chip:
        emulated = sampled_on_chip(emulated)
    return Programs(sizes, on, emulated, precision, users=users)


def sampled_on_chip(system: Any) -> Any:
    """Return a system that samples on the chips, as the Galaxy does."""
    ops = system_of("galaxy", Mesh(8, 4))
    return replace(
        system,
        decode=replace(system.decode, sample=ops.decode.sample),
        prefill=replace(system.prefill, sample=ops.prefill.sample),
    )


@dataclass(frozen=True)
class _Run:
    """One model on one system."""

    model: str
    machine: str
    mesh: str
    system: str
    precision: Precision
    users: int
    on_chip: bool = False

    def step_s(self, positions: Sequence[int], machines: Machines) -> float:
        """Return the mean time of decode steps."""
        return self._of_all_layers(machines, lambda estimator, cols: statistics.fmean(
            estimator.step_s([position] * cols) for position in positions
        ))  # fmt: skip

    def prefill_s(self, n_tokens: int, machines: Machines) -> float:
        """Return the time to prefill one prompt."""
        shape = PassShape.of_prompt(n_tokens)
        return self._of_all_layers(machines, lambda estimator, _: estimator.prefill_s(shape))

    def roofline_s(self, rows: int, n_positions: int, machines: Machines) -> float:
        """Return the longer of all bytes over DRAM and all flops over the peak of all cores."""
        program = self._programs(2)
        machine = machines[self.machine]
        n_bytes = flops_s = 0.0
        for use in program.decode().uses:
            share = PRESETS[self.model].n_layers / 2 if use.layer >= 0 else 1.0
            for matrix in use.op.matrices():
                size = matrix.rows * matrix.columns
                n_bytes += share * size * matrix.dtype.tile_bytes / 1024
                peak = machine.prefill_cores * Costs(machine).flops_per_core_s(matrix.fidelity)
                flops_s += share * 2 * rows * size / peak
            n_bytes += share * use.op.cached_bytes() * n_positions
        return max(n_bytes / machine.dram_bytes_per_s, flops_s)

    def _programs(self, n_layers: int) -> Programs:
        return _programs(
            self.model, n_layers, self.mesh, self.system, self.precision, self.users, self.on_chip
        )

    def _of_all_layers(
        self, machines: Machines, seconds: Callable[[Estimator, int], float]
    ) -> float:
        n_layers, few, more = PRESETS[self.model].n_layers, 2, 4
        found = []
        for number in (few, more):
            programs = self._programs(number)
            estimator = Estimator(programs, machines[self.machine])
            found.append(seconds(estimator, programs.mesh.cols))
        return found[0] + (n_layers - few) * (found[1] - found[0]) / (more - few)


_LLAMA = _Run("llama3-70b", _GALAXY, "8x4", "galaxy", PRECISIONS["performance"], 32)


def _groups(machine: str, length: int, model: str, system: str, kind: str) -> dict[str, str]:
    return {"machine": machine, "length": str(length), "model": model, "system": system,
            "kind": kind}  # fmt: skip


def _galaxy_times() -> list[Datum]:
    content = json.loads(CALIBRATION.read_text("utf-8"))
    source, found = content["source"], []
    for kind, key in (("op", "decode_layer_us"), ("tail op", "decode_tail_us")):
        for name, micros in content[key].items():
            if name == "plus_one":
                continue
            found.append(
                Datum(
                    name,
                    micros * 1e-6,
                    _op_margin(name),
                    partial(_op_s, name, kind),
                    _groups(_GALAXY, 128, "llama3-70b", "galaxy", kind),
                    source["decode_ops"],
                    is_fitted=not name.endswith("_gap"),
                )
            )
    for entry in content["end_to_end"]:
        n_tokens = entry["input_tokens"]
        # PERF.md's 14.01 ms is for the 128th token after a prompt of 128.
        at = n_tokens + 127 if n_tokens == 128 else n_tokens + 64
        found.append(
            Datum(
                f"decode step, {n_tokens} tokens",
                entry["ms"] * 1e-3,
                0.01,
                partial(_LLAMA.step_s, [at]),
                _groups(_GALAXY, n_tokens, "llama3-70b", "galaxy", "step"),
                source["end_to_end"],
                roofline_s=partial(_LLAMA.roofline_s, 32, at),
            )
        )
    for entry in content["prefill_s"]:
        n_tokens = entry["tokens"]
        found.append(
            Datum(
                f"prefill, {n_tokens} tokens",
                entry["s"],
                0.02,
                partial(_LLAMA.prefill_s, n_tokens),
                _groups(_GALAXY, n_tokens, "llama3-70b", "galaxy", "first token"),
                source["prefill"],
                roofline_s=partial(_LLAMA.roofline_s, n_tokens, 0),
            )
        )
    return found


def _op_margin(name: str) -> float:
    """Return the margin of tt-metal's target file for an op."""
    if name in ("reduce_scatter_create_heads", "rotary", "silu_mul"):
        return 0.10
    if name in ("update_cache", "reshards", "typecasts", "top_k", "sampling"):
        return 0.20
    return 0.07 if name == "attention" else 0.05


def _op_s(name: str, kind: str, machines: Machines) -> float:
    by_op_s, n_layers = _step_by_op(machines[_GALAXY])
    uses = n_layers if kind == "op" else 1
    gap_s = 0.0 if name.endswith("_gap") else machines[_GALAXY].op_gap_s
    return by_op_s[name] / uses - gap_s


@cache
def _step_by_op(machine: Machine) -> tuple[dict[str, float], int]:
    programs = _LLAMA._programs(2)
    return Estimator(programs, machine).step([127] * 4).by_op_s, 2


# --- the generic system


def _read_more() -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(MORE.read_text("utf-8"))["records"]
    return records


_DECODED = (160, 228, 296)
"""Positions among 200 tokens after a prompt of 128."""


def _generic_times() -> list[Datum]:
    found = []
    for record in _read_more():
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
        run = _Run(
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
                    _groups(machine, 128, model, system, "first token"),
                    record["source"],
                    roofline_s=partial(run.roofline_s, 128, 0),
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
                _groups(machine, 128, model, system, "step"),
                record["source"],
                compared="formats on the N300" if of_formats else "",
                roofline_s=partial(run.roofline_s, 32, 228),
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


# --- ops of a long prefill, and links

_PREFILL_OPS = {
    "qkv_matmul": ("qkv_matmul", 1),
    "wo_matmul": ("wo_matmul", 1),
    "ff1_matmul": ("w1_matmul", 1),
    "ff3_matmul": ("w3_matmul", 1),
    "qkv_reduce_scatter_axis1": ("all_reduce_qkv", 0),
    "wo_reduce_scatter_axis0": ("all_reduce_wo", 0),
    "ff1_reduce_scatter_axis1": ("reduce_scatter_w1", 0),
    "ff3_reduce_scatter_axis1": ("reduce_scatter_w3", 0),
    "ff2_all_gather_axis1": ("all_gather_w2_matmul", 0),
    "ff2_matmul": ("all_gather_w2_matmul", 1),
}
"""The op of each, and whether it is the op's matmul or its first collective."""


def _prefill_ops() -> list[Datum]:
    found = []
    for record in _read_more():
        if not record["id"].startswith("galaxy.prefill8k.op."):
            continue
        name = record["id"].rpartition(".")[2]
        found.append(
            Datum(
                f"prefill, 8192 tokens: {name}",
                record["value"] * 1e-6,
                0.10,
                partial(_prefill_op_s, name),
                _groups(_GALAXY, 8192, "llama3-70b", "galaxy", "prefill op"),
                record["source"],
            )
        )
    return found


def _prefill_op_s(name: str, machines: Machines) -> float:
    op, is_matmul = _PREFILL_OPS[name]
    for charge in _prefill_charges(machines[_GALAXY]):
        if charge.name != op:
            continue
        if hasattr(charge, "wire"):
            whole_s = charge.own_s + charge.wire_s
            return float(charge.beside_s if is_matmul else whole_s)
        return float(charge.seconds)
    raise AssertionError(name)


@cache
def _prefill_charges(machine: Machine) -> list[Any]:
    program = _LLAMA._programs(2).prefill(PassShape.of_prompt(8192))
    costs = Costs(machine)
    return [charge for _, charge in program.charges(costs) if hasattr(charge, "name")]


def _links() -> list[Datum]:
    found = []
    for record in _read_more():
        part = record["id"].split(".")
        if part[0] != "fabric":
            continue
        size = int(part[4])
        if part[2] == "bw":
            seconds, what = size / (record["value"] * 1e9), _packet_s
        else:
            seconds, what = record["value"] * 1e-9, _hop_s
        found.append(
            Datum(
                record["id"],
                seconds,
                0.05,
                partial(what, size),
                _groups(_GALAXY, 0, "none", "fabric", "link"),
                record["source"],
                is_fitted=False,
            )
        )
    return found


def _packet_s(size: int, machines: Machines) -> float:
    machine = machines[_GALAXY]
    whole_s = Costs(machine).link_s(4096, 4096)
    return machine.link_packet_s + size / 4096 * (whole_s - machine.link_packet_s)


def _hop_s(size: int, machines: Machines) -> float:
    machine = machines[_GALAXY]
    byte_s = 1 / machine.link_bytes_per_s
    return machine.link_hop_s + (size - 16) * byte_s
