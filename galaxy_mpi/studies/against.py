"""A run compared with the same run in another precision or system."""

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine, Hooks
from galaxy_mpi.engine.report import Report
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_bounded
from galaxy_mpi.files import temporary_folder
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import Layout
from galaxy_mpi.output import folded
from galaxy_mpi.studies.differences import Differences, compare_captures
from galaxy_mpi.systems import PRECISIONS, SYSTEMS, Modules, chosen_system

__all__ = ["Against", "other_run", "run_against"]

LEAST_PCC = 0.99

_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Against:
    """Differences between the two runs."""

    name: str
    n_tokens: int
    n_same: int
    """Tokens that the second run also chooses, given the tokens before them."""
    differences: Differences
    others: list[dict[int, str]]
    """Of each user, text of the tokens that the second run would have chosen instead, by place."""

    def to_dict(self) -> JsonObject:
        """Return its part of the JSON report."""
        figures = self.differences.to_dict(LEAST_PCC)
        return {"name": self.name, "tokens": self.n_tokens, "same_tokens": self.n_same} | {
            key: value for key, value in figures.items() if key not in ("a", "b", "schema_version")
        }

    def to_text(self) -> str:
        """Return it as text."""
        same = f"chooses {self.n_same} of this run's {self.n_tokens} tokens"
        head = folded(f"against {self.name}: {same}, given those before")
        return f"\n{head}\n{self.differences.to_text(LEAST_PCC)}"


def other_run(run: RunConfig, other: str) -> RunConfig:
    """Return the run to compare with.

    A system is run without this run's classes, layout, collectives and changes of formats, in the
    same precision. A precision or file replaces the formats, and nothing else.

    Raises
    ------
    ConfigError
        If there is no such precision, system or file, if the system arranges chips differently, or
        if the other run would be the same run.
    """
    changes = _changes(other)
    if all(getattr(run, name) == value for name, value in changes.items()):
        system = run.system_name if run.system_name in SYSTEMS else "galaxy"
        advice = "name a precision or another system"
        if other not in SYSTEMS:
            advice = (
                f"to see what your classes, layout, collectives or formats change, name a system: "
                f"--against {system}"
            )
        raise ConfigError(
            f"--against {other}: that would be the same run, so nothing could differ; {advice}"
        )
    again = replace(run, **changes, **_OF_DEVICE)
    if again.working_mesh != run.working_mesh:
        raise ConfigError(
            f"--against {other}: it uses the {run.mesh} mesh as {again.working_mesh}, and this run "
            f"as {run.working_mesh}; compare two runs with --capture and galaxy-mpi diff"
        )
    return again


def run_against(
    run: RunConfig, other: str, transport: Transport, hooks: Hooks
) -> tuple[Report | None, Against | None]:
    """Run twice. The second run is fed the tokens of the first, so that their steps correspond.

    Parameters
    ----------
    run : RunConfig
        If it has a ``capture_path``, captures go to its folders run and against.
    other : str
        A precision, a system, or a file with formats.
    transport : Transport
    hooks : Hooks

    Returns
    -------
    report, against
        On rank 0; None elsewhere.
    """
    with ExitStack() as stack:
        folder = run.capture_path
        if folder is None:
            folder = stack.enter_context(temporary_folder(transport.rank))
        first, second = folder / "run", folder / "against"
        with Engine(replace(run, capture_path=first), transport, hooks) as engine:
            report = engine.generate()
            tokens = [request.generated for request in engine.requests]
            if report is not None and report.is_interrupted:
                return report, None
        again = replace(other_run(run, other), capture_path=second)
        with Engine(again, transport, hooks, forced=tokens) as engine:
            again_report = engine.generate()
            if report is not None and again_report is not None and again_report.is_interrupted:
                return replace(report, is_interrupted=True), None
            chosen = [engine.chosen.get(number, []) for number in range(len(tokens))]
        if report is None:
            return None, None
        others = [
            {
                at: engine.text_of(ours[max(0, at - 8) : at], theirs[at])
                for at in range(len(ours))
                if ours[at] != theirs[at]
            }
            for ours, theirs in zip(tokens, chosen, strict=True)
        ]
        n_tokens = sum(map(len, tokens))
        found = compare_captures(first, second)
        return report, Against(other, n_tokens, n_tokens - sum(map(len, others)), found, others)


_OF_DEVICE: JsonObject = {
    "json_path": None,
    "trace_path": None,
    "host_trace_path": None,
    "profile_path": None,
    "report_path": None,
    "slow_chips": (),
    "slow_links": (),
}
"""Outputs and settings of the first run only."""

_AS_SHIPPED: JsonObject = {
    "modules": Modules(),
    "layout_class": Layout,
    "collectives": None,
    "formats": None,
    "math_fidelity": True,
}
"""A system that is named has its own attention, norms, sharding, collectives and formats."""


def _changes(other: str) -> JsonObject:
    if other in PRECISIONS:
        return {"precision": other, "optimizations": None, "formats": None}
    if other in SYSTEMS or ".py:" in other:
        return {"system": chosen_system(other), **_AS_SHIPPED}
    if not Path(other).is_file():
        names = ", ".join((*PRECISIONS, *SYSTEMS))
        raise ConfigError(f"--against {other}: no such file; name one, or {names}")
    if _is_report(Path(other)):
        raise ConfigError(
            f"--against {other}: that is a report, not a file of formats; to compare its tokens, "
            f"use --golden {other}"
        )
    return {"optimizations": Path(other), "formats": None}


def _is_report(path: Path) -> bool:
    """Return whether a file is what ``decode --json`` writes."""
    try:
        content = json.loads(read_bounded(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):  # told by whoever reads it for what it should be
        return False
    return isinstance(content, dict) and {"schema_version", "tokens"} <= content.keys()
