"""Published times next to modelled ones, and how far apart they are."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.published_times import published_times
from galaxy_mpi.studies.whole_run import run_one
from galaxy_mpi.systems import PRECISIONS, PassShape, system_of
from galaxy_mpi.timing import MACHINES, Machine
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.published import LEFT_OUT, Measurement

__all__ = ["Comparison", "Known", "compare", "known_times", "left_out_errors"]

POSITION = 127
"""Position of the published ops: one new token after 127 others."""

MEAN_OVER = 128
"""Decode steps that end-to-end figures are averaged over (PERF.md)."""


@dataclass(frozen=True)
class Comparison:
    """One published time and the modelled one."""

    measurement: Measurement
    modelled_s: float | None
    """None if the model has no such op."""
    is_calibration: bool

    @property
    def error(self) -> float | None:
        """Modelled over published, minus one."""
        if self.modelled_s is None:
            return None
        return self.modelled_s / self.measurement.seconds - 1


def compare(measurements: Sequence[Measurement], *, is_calibration: bool) -> list[Comparison]:
    """Model every measurement of Llama-3.3-70B on the 6U Galaxy."""
    machine, model, mesh = Machine.load("wormhole_galaxy_6u"), PRESETS["llama3-70b"], Mesh(8, 4)
    system, precision = system_of("galaxy", mesh), PRECISIONS["performance"]

    def estimator(users: int) -> Estimator:
        return Estimator(Programs(model, mesh, system, precision, users=users), machine)

    step = estimator(32).step([POSITION] * 4)

    def modelled_s(what: Measurement) -> float | None:
        if what.kind == "decode":
            run = run_one(estimator(what.users), what.tokens, MEAN_OVER, what.users)
            return statistics.fmean(run.step_s)
        if what.kind == "prefill":
            return estimator(what.users).prefill(PassShape.of_prompt(what.tokens)).seconds
        if what.name not in step.by_op_s:
            return None
        n_uses = model.n_layers if what.kind == "layer" else 1
        gap_s = 0.0 if what.name.endswith("_gap") else machine.op_gap_s
        return step.by_op_s[what.name] / n_uses - gap_s

    return [Comparison(what, modelled_s(what), is_calibration) for what in measurements]


@dataclass(frozen=True)
class Known:
    """A published time of the package with the errors of its predictions."""

    name: str
    kind: str
    set: str
    published_s: float
    modelled_s: float
    error: float
    """In sample: modelled over published, minus one."""
    left_out_error: float | None
    """Mean absolute error of the fits that leave it out."""
    roofline_error: float | None
    source: str


def known_times() -> list[Known]:
    """Return all published times of the package with their errors."""
    machines = {name: Machine.load(name) for name in MACHINES}
    left: dict[str, list[float]] = {}
    for row in json.loads(LEFT_OUT.read_text("utf-8")):
        if row["left_out"]:
            left.setdefault(row["time"], []).append(abs(row["error"]))
    rows = []
    for datum in published_times():
        modelled_s = datum.model_s(machines)
        roofline_s = datum.roofline_s(machines) if datum.roofline_s else None
        errors = left.get(datum.name)
        rows.append(
            Known(
                name=datum.name,
                kind=datum.groups["kind"],
                set="reproduced",
                published_s=datum.seconds,
                modelled_s=modelled_s,
                error=modelled_s / datum.seconds - 1,
                left_out_error=statistics.fmean(errors) if errors else None,
                roofline_error=roofline_s / datum.seconds - 1 if roofline_s else None,
                source=datum.source,
            )
        )
    return rows


def left_out_errors() -> dict[str, list[float]]:
    """Return the sizes of errors where a group was left out, by its name."""
    groups: dict[str, list[float]] = {}
    for row in json.loads(LEFT_OUT.read_text("utf-8")):
        if row["left_out"]:
            groups.setdefault(f"{row['left_out']}: {row['group']}", []).append(abs(row["error"]))
    return groups
