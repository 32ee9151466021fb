"""Predict published device times that no constant was fitted to, and print how far off each is.

    python benchmarks/held_out_times.py [FILE.csv]

Each line of held_out_times.csv is one published time with its source and commit. None of them is
in a file of the package, and they stay out of it: constants are fitted to the other half, which is
galaxy_mpi/timing/published/timing_models.csv. Which half a time belongs to was decided before any
of them was predicted:

* generic system: models in alphabetical order, those of equal layers together (llama3-70b,
  llama3-8b with mistral-7b, llama3.2-1b, llama3.2-3b, phi-3.5-mini, qwen2.5-32b, qwen2.5-72b,
  qwen2.5-7b, qwen3-32b, qwen3-8b); the first, third, ... are fitted, on all machines; the second,
  fourth, ... are held out. (Short steps and prompts of llama3.2-1b and llama3.2-3b are in
  timing_more.json.)
* Galaxy, Llama-70B: prompts of 2**n tokens are fitted if n is even and held out if it is odd.
* 4U Galaxy: ops of a layer are fitted; the step and the ops behind the layers are held out.

A step is the mean over the tokens that its source averages over. A first token is that of one
prompt. Times of ops exclude the gap behind them, as published.
"""

import csv
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.bands import band

TABLE = Path(__file__).with_name("held_out_times.csv")

OFF = 0.3
"""Errors beyond this are counted."""


@dataclass(frozen=True)
class Row:
    """A published time, the prediction, and its band."""

    published: dict[str, str]
    predicted_s: float
    margin: float | None
    regime: str

    @property
    def seconds(self) -> float:
        """Published."""
        return float(self.published["seconds"])

    @property
    def error(self) -> float:
        """Relative error."""
        return self.predicted_s / self.seconds - 1

    @property
    def is_inside(self) -> bool | None:
        """Whether the published time is in the band; None without one."""
        if self.margin is None:
            return None
        return 1 / (1 + self.margin) <= self.seconds / self.predicted_s <= 1 + self.margin

    @property
    def kind(self) -> str:
        """What it is a time of, with long contexts apart."""
        what = self.published["what"].split()[0]
        if what == "op":
            return "op"
        name = "step" if what == "step" else "first token"
        return name if int(self.published["tokens"]) <= 4096 else f"{name}, long"


def main() -> None:
    """Predict every line of the table."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE
    with path.open(encoding="utf-8", newline="") as file:
        rows = [predict(line) for line in csv.DictReader(file)]
    print(f"{'model':<14}{'machine':<20}{'what':<24}{'tokens':>7}{'users':>6}{'published':>11}"
          f"{'predicted':>11}{'error':>8}{'band':>7}  regime")  # fmt: skip
    for row in rows:
        line = row.published
        cached = int(line["cached_percent"])
        what = line["what"] + (f", {cached} % cached" if cached else "")
        what += ", accuracy" if line["precision"] == "accuracy" else ""
        margin = "-" if row.margin is None else f"{row.margin:.0%}"
        inside = "  outside" if row.is_inside is False else ""
        print(f"{line['model']:<14}{line['machine']:<20}{what:<24}{line['tokens']:>7}"
              f"{line['users']:>6}{row.seconds * 1e3:>8.5g} ms{row.predicted_s * 1e3:>8.5g} ms"
              f"{row.error:>+8.1%}{margin:>7}  {row.regime}{inside}")  # fmt: skip
    print(f"\n{'':<34}{'times':>6}{'mean error':>12}{'bias':>8}{'off by > 30 %':>15}{'in band':>9}")
    by: tuple[Callable[[Row], str], ...] = (
        lambda row: row.kind,
        lambda row: f"{row.published['machine']}, {row.published['system']}",
        lambda row: row.regime,
        lambda row: "all",
    )
    for key in by:
        for name in sorted({key(row) for row in rows}):
            print(summary(name, [row for row in rows if key(row) == name]))


def predict(line: dict[str, str]) -> Row:
    """Predict one time through the estimate API."""
    first_token = line["what"] == "first token"
    n_tokens = int(line["tokens"])
    estimate = WhatIf(
        model=line["model"],
        machine=line["machine"],
        mesh=line["mesh"],
        system=line["system"],
        precision=line["precision"],
        users=int(line["users"]),
        input_tokens=n_tokens,
        new_tokens=1 if first_token else n_steps(line),
        cached_percent=int(line["cached_percent"]),
        allow_over_budget=True,
    )
    device = estimate.report["device"]
    if line["what"].startswith("op "):
        name = line["what"].removeprefix("op ")
        n_uses = estimate.programs.n_layers if name in OPS_OF_A_LAYER else 1
        gap_s = Machine.load(line["machine"]).op_gap_s
        seconds = device["by_op_s"][name] / n_uses - gap_s
        limits = band("step", estimate.conditions)
        return Row(line, seconds, None, limits.regime)
    name = "time_to_first_token_s" if first_token else "decode_step_s"
    return Row(line, device[name], device[f"{name}_margin"], device[f"{name}_regime"])


OPS_OF_A_LAYER = (
    "rms_norm_attention",
    "qkv_matmul",
    "reduce_scatter_create_heads",
    "rotary",
    "update_cache",
    "attention",
    "all_gather_concat",
    "wo_matmul",
    "all_reduce_wo",
    "rms_norm_mlp",
    "w1_w3_matmul_reduce_scatter_w1",
    "reduce_scatter_w3",
    "silu_mul",
    "all_gather_mlp",
    "w2_matmul",
    "all_reduce_w2",
)


def n_steps(line: dict[str, str]) -> int:
    """Return the steps that a source averages over: 200, on the Galaxy 128, of one token 1."""
    if line["tokens"] == "127":
        return 1
    return 128 if line["system"] == "galaxy" else 200


def summary(name: str, rows: list[Row]) -> str:
    """Return a line of the summary."""
    errors = [row.error for row in rows]
    mean = statistics.fmean(abs(error) for error in errors)
    off = sum(abs(error) > OFF for error in errors) / len(errors)
    known = [row.is_inside for row in rows if row.is_inside is not None]
    inside = f"{sum(known) / len(known):.0%}" if known else "-"
    return (f"{name:<34}{len(rows):>6}{mean:>12.1%}{statistics.fmean(errors):>+8.1%}{off:>15.0%}"
            f"{inside:>9}")  # fmt: skip


if __name__ == "__main__":
    main()
