"""Published times of many models, lengths and machines: the third calibration set.

The other half of these times is held out for ever (benchmarks/held_out_times.py says how they were
divided).
"""

import csv
from functools import partial

from galaxy_mpi.studies.datum import LONG_FROM, Datum, groups_of, op_margin
from galaxy_mpi.studies.published_galaxy import op_s
from galaxy_mpi.studies.published_runs import Run
from galaxy_mpi.timing.published import MODELS

__all__ = ["model_times"]

_MARGINS = {"step": 0.05, "first token": 0.2}
"""Models of equal sizes (Phi-3 and Phi-3.5, Qwen2.5-32B and QwQ) differ by 4 to 8 % in steps, 25 to
60 % in first tokens of 128."""

_LONG_MARGINS = {"step": 0.08, "first token": 0.1}

_STEPS = {"galaxy": 128, "tt_transformers": 200}
"""Decode steps that a source averages over."""


def model_times() -> list[Datum]:
    """Return the times of the third set."""
    with MODELS.open(encoding="utf-8", newline="") as file:
        return [_datum(line) for line in csv.DictReader(file)]


def _datum(line: dict[str, str]) -> Datum:
    machine, system, what = line["machine"], line["system"], line["what"]
    n_tokens, users, seconds = int(line["tokens"]), int(line["users"]), float(line["seconds"])
    cached, model, mesh = int(line["cached_percent"]), line["model"], line["mesh"]
    name = f"{line['published']} {machine}, {line['precision']}: {what}, {n_tokens} tokens, {users}"
    if what.startswith("op "):
        op = what.removeprefix("op ")
        return Datum(
            f"{machine}: {op}",
            seconds,
            op_margin(op),
            partial(op_s, op, "op", machine),
            groups_of(machine, n_tokens + 1, model, system, "op"),
            line["source"],
            mesh=mesh,
        )
    run = Run(model, machine, mesh, system, line["precision"], users)
    start = n_tokens * cached // 100 // 128 * 128
    margins = _LONG_MARGINS if n_tokens >= LONG_FROM else _MARGINS
    if what == "step":
        positions = [127] if n_tokens == 127 else _decoded(n_tokens, _STEPS[system])
        model_s = partial(run.step_s, positions)
        roofline_s = partial(run.roofline_s, 32, positions[-1])
    else:
        name += f", {cached} % cached" if cached else ""
        model_s = partial(run.prefill_s, n_tokens, start=start)
        roofline_s = partial(run.roofline_s, n_tokens - start, 0)
    return Datum(
        name,
        seconds,
        margins[what],
        model_s,
        groups_of(machine, n_tokens, model, system, what),
        line["source"],
        roofline_s=roofline_s,
        mesh=mesh,
        is_changed=cached > 0,
    )


def _decoded(n_tokens: int, n_steps: int) -> list[int]:
    """Return three positions among the decoded tokens, evenly spread."""
    return [n_tokens + n_steps * part // 6 for part in (1, 3, 5)]
