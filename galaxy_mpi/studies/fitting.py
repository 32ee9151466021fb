"""Fit the constants of the machines to published times: least squares on logarithms, with priors.

A residual is the logarithm of modelled over published time, divided by the time's margin. A prior
is a datum like any other: the logarithm of a constant over its expected value, divided by its own
width. So a constant that no time determines stays at its expected value. The solver is
Levenberg-Marquardt with a Jacobian of finite differences, because the model is cheap to evaluate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.studies.datum import Datum
from galaxy_mpi.timing import MACHINES, Machine
from galaxy_mpi.timing.machine import read_profile

__all__ = ["PARAMETERS", "Fit", "Parameter", "fit", "left_out", "machines_of", "predicted"]

Vector = NDArray[np.float64]

_GALAXY = "wormhole_galaxy_6u"


@dataclass(frozen=True)
class Parameter:
    """A constant to fit, with its expected value."""

    key: str
    prior: float
    width: float
    """Standard deviation of the prior's logarithm."""
    profiles: tuple[str, ...] = (_GALAXY,)
    """The profiles that contain it."""

    def touches(self, data: Sequence[Datum]) -> list[int]:
        """Return which data depend on it: all machines extend the Galaxy's profile."""
        return [
            number
            for number, datum in enumerate(data)
            if _GALAXY in self.profiles or datum.groups["machine"] in self.profiles
        ]

    @property
    def name(self) -> str:
        """Name in tables."""
        own = self.profiles[0]
        return self.key if own == _GALAXY else f"{own}: {self.key}"


PARAMETERS = (
    Parameter("dram_bytes_per_s", 2.5e11, 0.03),
    Parameter("vector_elements_per_core_s", 2.2e9, 0.3),
    Parameter("add_elements_per_core_s", 5.7e9, 0.3),
    Parameter("launch_s", 1.45e-6, 0.2),
    Parameter("stage_s", 1.3e-6, 0.3),
    Parameter("ring_core_hop_s", 4.5e-8, 0.4),
    Parameter("multicast_block_s", 7.5e-7, 0.4),
    Parameter("collective_s", 4.5e-6, 0.3),
    Parameter("generic_collective_s", 1.5e-5, 0.5),
    Parameter("generic_step_s", 3e-6, 0.7),
    Parameter("dram_round_trip_s", 1.5e-6, 0.4),
    Parameter("attention_bytes_per_core_s", 6e9, 0.5),
    Parameter("attention_dram_share", 0.35, 0.3),
    Parameter("attention_merge_s", 4e-6, 0.7),
    Parameter("generic_attention_passes", 4.0, 0.5),
    Parameter("softmax_passes", 0.4, 0.3),
    Parameter("generic_softmax_passes", 1.5, 0.5),
    Parameter("chunk_read_bytes_per_s", 2e11, 0.3),
    Parameter("prefill_op_s", 2e-5, 0.5),
    Parameter("prefill_op_s", 5e-5, 0.5, ("n150", "n300")),
    Parameter("prefill_op_s", 5e-5, 0.5, ("t3000",)),
    Parameter("generic_link_bytes_per_s", 5e9, 0.5),
    Parameter("prefill_efficiency", 0.55, 0.2),
    Parameter("prefill_weight_bytes_per_s", 8e10, 0.5),
    Parameter("streamed_bytes_per_s", 1.5e11, 0.3),
    Parameter("gather_bytes_per_worker_s", 5.6e9, 0.4),
    Parameter("scatter_bytes_per_worker_s", 4e9, 0.4),
    Parameter("host_step_s", 2e-3, 0.7, ("n150",)),
    Parameter("host_step_s", 2e-3, 0.7, ("n300",)),
    Parameter("host_step_s", 2e-3, 0.7, ("t3000", _GALAXY)),
    Parameter("host_step_s", 4e-3, 0.7, ("wormhole_galaxy_4u",)),
    Parameter("generic_collective_s", 3e-5, 0.5, ("wormhole_galaxy_4u",)),
    Parameter("host_prompt_s", 1e-2, 0.7),
    Parameter("host_bytes_per_s", 4e9, 0.5),
    Parameter("host_value_s", 1.5e-9, 0.5),
    Parameter("typecast_passes", 3.0, 0.3),
    Parameter("sort_passes", 37.5, 0.5),
    Parameter("sampling_passes", 17.8, 0.5),
)
"""Constants that published times may change."""

_STEP = 1e-4
"""Step of a logarithm in finite differences."""

_STILL = 2e-3
"""A fit ends when its step is shorter than this."""

_ROUNDS = 12

_JACOBIANS = 3
"""Rounds that measure the Jacobian; later rounds correct it by what their steps show."""

_CHORDS = 2
"""Steps of a fit that leaves out a group."""


@dataclass(frozen=True)
class Fit:
    """Result of a fit."""

    values: Vector
    """In the order of `PARAMETERS`."""
    jacobian: Vector
    """Derivatives of log time by log constant, in margins: a row per datum."""

    def sigma(self) -> Vector:
        """Return the standard deviation of each logarithm, given data and priors."""
        inverse = np.asarray(np.linalg.inv(_normal(self.jacobian)), np.float64)
        sigma: Vector = np.sqrt(np.diag(inverse))
        return sigma

    def deciding(self) -> list[list[int]]:
        """Return the up to three data that determine each constant most."""
        weight = self.jacobian**2
        order = np.argsort(-weight, axis=0, kind="stable")
        return [
            [
                int(row)
                for row in order[:3, column]
                if weight[row, column] > 0.05 * weight[:, column].sum()
            ]
            for column in range(len(PARAMETERS))
        ]


def machines_of(values: Vector) -> dict[str, Machine]:
    """Return all machines, with constants of their files replaced."""
    changed: dict[str, dict[str, float]] = {name: {} for name in MACHINES}
    for name in MACHINES:
        _, _, own = read_profile(name)
        for parameter, value in zip(PARAMETERS, values, strict=True):
            is_own = name in parameter.profiles
            if is_own or (_GALAXY in parameter.profiles and parameter.key not in own):
                changed[name][parameter.key] = float(value)
    found = {}
    for name, more in changed.items():
        head, constants, _ = read_profile(name)
        known = {key: constant.value for key, constant in constants.items()}
        found[name] = Machine.of(head, known | more)
    return found


def predicted(values: Vector, data: Sequence[Datum]) -> Vector:
    """Return the modelled time of each datum, in seconds."""
    machines = machines_of(values)
    return np.array([datum.model_s(machines) for datum in data])


def fit(data: Sequence[Datum], start: Fit | None = None, rounds: int = _ROUNDS) -> Fit:
    """Return the constants that fit the data best.

    Parameters
    ----------
    data : sequence of Datum
        Only those with ``is_fitted`` are used.
    start : Fit, optional
        Initial values; by default the expected ones.
    """
    priors = np.log([parameter.prior for parameter in PARAMETERS])
    widths = np.array([parameter.width for parameter in PARAMETERS])
    at = priors.copy() if start is None else np.log(start.values)

    def residuals(point: Vector) -> Vector:
        return residuals_of(np.exp(point), data)

    def loss(point: Vector, rest: Vector) -> float:
        return float(_huber(rest).sum() + (((point - priors) / widths) ** 2).sum())

    rest, damping = residuals(at), 1e-3
    jacobian = np.zeros((len(data), len(at)))
    for number in range(rounds):
        for column, parameter in enumerate(PARAMETERS if number < _JACOBIANS else ()):
            moved = at.copy()
            moved[column] += _STEP
            touched = parameter.touches(data)
            there = residuals_of(np.exp(moved), [data[n] for n in touched])
            jacobian[touched, column] = (there - rest[touched]) / _STEP
        before = loss(at, rest)
        robust = _weights(rest)[:, None]
        normal = (jacobian * robust).T @ jacobian + np.diag(1 / widths**2)
        gradient = (jacobian * robust).T @ rest + (at - priors) / widths**2
        for _ in range(8):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
            following = at + np.clip(step, -0.5, 0.5)
            rest_there = residuals(following)
            if loss(following, rest_there) < before:
                jacobian = _updated(jacobian, following - at, rest_there - rest)
                at, rest, damping = following, rest_there, damping / 4
                break
            damping *= 6
        else:
            break
        if np.abs(step).max() < _STILL:
            break
    return Fit(np.exp(at), jacobian)


def _updated(jacobian: Vector, step: Vector, difference: Vector) -> Vector:
    """Return a Jacobian that gives the difference that a step made (Broyden)."""
    surprise = difference - jacobian @ step
    updated: Vector = jacobian + np.outer(surprise, step) / (step @ step)
    return updated


def _normal(jacobian: Vector) -> Vector:
    widths = np.array([parameter.width for parameter in PARAMETERS])
    normal: Vector = jacobian.T @ jacobian + np.diag(1 / widths**2)
    return normal


_HUBER = 2.0
"""Beyond this many margins, the pull of a datum is constant."""


def _huber(rest: Vector) -> Vector:
    size = np.abs(rest)
    loss: Vector = np.where(size <= _HUBER, size**2, _HUBER * (2 * size - _HUBER))
    return loss


def _weights(rest: Vector) -> Vector:
    weights: Vector = _HUBER / np.maximum(np.abs(rest), _HUBER)
    return weights


def _compared(difference: Vector, data: Sequence[Datum]) -> Vector:
    """Return differences with the mean of each compared set subtracted."""
    out = difference.copy()
    for name in {d.compared for d in data} - {""}:
        members = [number for number, d in enumerate(data) if d.compared == name]
        out[members] -= out[members].mean()
    return out


def left_out(
    data: Sequence[Datum], whole: Fit, groups: Sequence[str]
) -> Iterator[tuple[str, str, Mapping[int, float]]]:
    """Yield the predictions of fits for the group of data that each leaves out.

    Such a fit starts at the fit to all data and takes Gauss-Newton steps with the same Jacobian,
    because the model is nearly linear over so short a distance.

    Yields
    ------
    kind, group : str
    predicted : dict of int to float
        Predicted seconds, by the number of the datum.
    """
    done: set[tuple[int, ...]] = set()
    for kind in groups:
        names = sorted({d.groups[kind] for d in data if d.is_fitted}, key=_by_number)
        for name in names:
            out = [n for n, d in enumerate(data) if d.groups[kind] == name and d.is_fitted]
            if tuple(out) in done:  # the Galaxy's machine, model and system are the same data
                continue
            done.add(tuple(out))
            values = _without(out, data, whole)
            seconds = predicted(values, [data[n] for n in out])
            yield kind, name, dict(zip(out, seconds.tolist(), strict=True))


def _by_number(name: str) -> tuple[int, str]:
    """Return a key that sorts lengths as numbers."""
    return (int(name) if name.isdecimal() else 0, name)


def _without(out: Sequence[int], data: Sequence[Datum], whole: Fit) -> Vector:
    """Return the constants of a fit without the data of a group."""
    priors = np.log([parameter.prior for parameter in PARAMETERS])
    widths = np.array([parameter.width for parameter in PARAMETERS])
    kept = np.array([n for n in range(len(data)) if n not in set(out)])
    jacobian, at = whole.jacobian[kept], np.log(whole.values)
    for _ in range(_CHORDS):
        rest = residuals_of(np.exp(at), data)[kept]
        robust = _weights(rest)[:, None]
        normal = (jacobian * robust).T @ jacobian + np.diag(1 / widths**2)
        gradient = (jacobian * robust).T @ rest + (at - priors) / widths**2
        at = at + np.clip(np.linalg.solve(normal, -gradient), -0.5, 0.5)
    values: Vector = np.exp(at)
    return values


def residuals_of(values: Vector, data: Sequence[Datum]) -> Vector:
    """Return log(modelled / published) in margins; 0 for data that are not fitted."""
    weights = np.array([1 / d.margin if d.is_fitted else 0.0 for d in data])
    difference = np.log(predicted(values, data)) - np.log([d.seconds for d in data])
    rest: Vector = _compared(difference, data) * weights
    return rest
