"""Device time without weights, values or ranks: ``python -m galaxy_mpi.estimate``."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.checkpoints import locate, read_config
from galaxy_mpi.command import ArgumentParser, run_alone
from galaxy_mpi.device import MACHINES, Machine, Slowness, Trace
from galaxy_mpi.engine.budget import Budget
from galaxy_mpi.engine.estimator import Estimator
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.output import write_text
from galaxy_mpi.systems import PRECISIONS

__all__ = ["build_parser", "main"]

MAX_TOKENS = 131_072


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.estimate",
        "Say what a run would take on the emulated chips, without computing it.",
    )
    add = parser.add_argument
    add(
        "--model",
        default="llama3-70b",
        metavar="PATH|NAME",
        help=f"folder with config.json, demo, or {', '.join(PRESETS)}",
    )
    add("--users", type=int, default=32, metavar="N", help="users of a decode step")
    add("--input-tokens", type=int, default=128, metavar="N", help="tokens of each prompt")
    add("--new-tokens", type=int, default=128, metavar="N", help="decode steps behind it")
    add("--mesh", metavar="RxC", help="rows x columns, instead of the machine's")
    add(
        "--machine",
        default=os.environ.get("WH_ARCH_YAML") or "wormhole_galaxy_6u",
        metavar="NAME|FILE",
        help=f"constants of the chips: {', '.join(MACHINES)}, or a YAML file; WH_ARCH_YAML too",
    )
    add("--links", type=int, metavar="N", help="links between neighbours, instead of the machine's")
    add("--topology", metavar="T", help="ring or line, instead of the machine's")
    add("--precision", default="performance", help="performance or accuracy")
    add("--layers", type=int, metavar="N", help="only the first N layers")
    add("--no-prefetch", action="store_true", help="matmuls read their weights from DRAM")
    add("--circular-buffer-bytes", type=int, metavar="N", help="device bytes a chip")
    add(
        "--slow-chip",
        action="append",
        default=[],
        metavar="R,C,FACTOR",
        help="a chip whose ops take FACTOR times as long; may be repeated",
    )
    add(
        "--slow-link",
        action="append",
        default=[],
        metavar="R,C,AXIS,FACTOR",
        help="wires from a chip to the next along ROWS or COLS; may be repeated",
    )
    add("--allow-over-budget", action="store_true", help="go on if a chip lacks the memory")
    add("--sweep", metavar="KEY=A,B,C", help="one row for each value of an option, as --links=1,2")
    add("--csv", type=Path, metavar="FILE", help="write the rows of a sweep")
    add("--trace", type=Path, metavar="FILE", help="write the first decode step for Perfetto")
    add("--json", type=Path, metavar="FILE", help="write the figures; - is standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Estimate, print a table, write JSON."""
    parser, words = build_parser(), list(sys.argv[1:] if argv is None else argv)

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if arguments.csv is not None and arguments.sweep is None:
            raise ConfigError("--csv writes the rows of a --sweep; add one")
        if arguments.sweep is not None:
            return _prepare_sweep(parser, words, arguments)
        estimate = _Estimate(arguments)

        def play() -> None:
            report = estimate.report()
            if arguments.trace is not None:
                trace = Trace(estimate.mesh)
                estimate.estimator.step([arguments.input_tokens] * estimate.mesh.cols, trace)
                write_text(arguments.trace, trace.to_json())
            if str(arguments.json) == "-":
                print(json.dumps(report, indent=2))
                return
            write_text(arguments.json, json.dumps(report, indent=2) + "\n")
            print(estimate.table(report["device"]))

        return play

    return run_alone(parser, words, prepare)


class _Estimate:
    """One set of arguments, checked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.estimator, self.model, self.mesh, machine = _estimator(arguments)
        self.budget = Budget.of(
            self.model,
            machine,
            self.mesh,
            PRECISIONS[arguments.precision],
            self.estimator.sizes,
            n_positions=arguments.input_tokens + arguments.new_tokens,
            circular_buffer_bytes=arguments.circular_buffer_bytes,
        )
        if not arguments.allow_over_budget:
            self.budget.check(machine)

    def report(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        a = self.arguments
        return {
            "schema_version": 1,
            "model": a.model,
            "mesh": str(self.mesh),
            "machine": a.machine,
            "system": "galaxy",
            "precision": a.precision,
            "users": a.users,
            "input_tokens": a.input_tokens,
            "new_tokens": a.new_tokens,
            "memory": self.budget.to_dict(),
            "device": self.estimator.run(a.input_tokens, a.new_tokens).to_dict(),
        }

    def table(self, figures: dict[str, Any]) -> str:
        """Return the figures for people."""
        a, step_s = self.arguments, figures["decode_step_s"]
        stall_s, budget = figures["prefetch_stall_s"], self.budget

        def kib(n_bytes: float) -> str:
            return f"{n_bytes / 2**10:.1f} KiB"

        def mib(n_bytes: float) -> str:
            return f"{n_bytes / 2**20:.1f} MiB"

        rows = [
            ("model", f"{a.model}, {self.model.n_layers} layers, dim {self.model.dim}"),
            ("mesh, machine", f"{self.mesh}, {a.machine}"),
            ("system, precision", f"galaxy, {a.precision}"),
            ("users, tokens", f"{a.users}, {a.input_tokens} in, {a.new_tokens} new"),
            ("device: decode step", f"{step_s * 1e3:.3f} ms"),
            ("device: decode layer", f"{figures['decode_layer_s'] * 1e6:.2f} us"),
            ("device: tokens/s/user", f"{figures['tokens_per_s_per_user']:.2f}"),
            ("device: tokens/s", f"{figures['tokens_per_s']:.1f} (all users)"),
            ("device: time to first token", f"{figures['time_to_first_token_s'] * 1e3:.1f} ms"),
            ("device: prefetch stall", f"{stall_s * 1e6:.1f} us a step ({stall_s / step_s:.1%})"),
            (
                "device: bytes of a link a step",
                ", ".join(f"{axis} {kib(n)}" for axis, n in figures["link_bytes"].items()),
            ),
            ("chip: weights, embedding", mib(budget.weights_bytes + budget.embedding_bytes)),
            ("chip: KV cache", mib(budget.kv_cache_bytes)),
            ("chip: persistent buffers (L1)", mib(budget.persistent_buffers_bytes)),
            ("chip: circular buffer (L1)", mib(budget.circular_buffer_bytes)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        lines += ["", f"{'op of a decode step, chip (0, 0)':<34}{'us a step':>11}{'share':>8}"]
        for name, seconds in sorted(figures["by_op_s"].items(), key=lambda item: -item[1]):
            if seconds > 0:
                lines.append(f"{name:<34}{seconds * 1e6:>11.1f}{seconds / step_s:>8.1%}")
        return "\n".join(lines)


SWEEP_COLUMNS = (
    "decode_step_s",
    "tokens_per_s_per_user",
    "tokens_per_s",
    "time_to_first_token_s",
    "prefetch_stall_s",
)


def _prepare_sweep(
    parser: ArgumentParser, words: list[str], arguments: argparse.Namespace
) -> Callable[[], None]:
    key, _, values = arguments.sweep.partition("=")
    key = key.lstrip("-")
    if not values or key in ("json", "csv", "sweep", "help", "no-prefetch", "allow-over-budget"):
        raise ConfigError(
            f"--sweep takes an option and its values, for example links=1,2,3,4; "
            f"got {arguments.sweep!r}"
        )
    # Said once more behind the others, where the last one counts.
    estimates = {
        value: _Estimate(parser.parse_args([*words, f"--{key}", value]))
        for value in values.split(",")
    }

    def play() -> None:
        rows = []
        for value, estimate in estimates.items():
            device = estimate.report()["device"]
            rows.append({key: value} | {name: device[name] for name in SWEEP_COLUMNS})
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(arguments.csv, text.getvalue())
        write_text(arguments.json, json.dumps(rows, indent=2) + "\n")
        width = max(len(key), *(len(value) for value in estimates)) + 2
        print(f"{key:<{width}}{'step ms':>10}{'tok/s/user':>12}{'tok/s':>10}{'first token ms':>16}"
              f"{'stall us':>10}")  # fmt: skip
        for row in rows:
            print(
                f"{row[key]:<{width}}{row['decode_step_s'] * 1e3:>10.3f}"
                f"{row['tokens_per_s_per_user']:>12.2f}{row['tokens_per_s']:>10.1f}"
                f"{row['time_to_first_token_s'] * 1e3:>16.1f}"
                f"{row['prefetch_stall_s'] * 1e6:>10.1f}"
            )

    return play


def _estimator(arguments: argparse.Namespace) -> tuple[Estimator, LlamaConfig, Mesh, Machine]:
    for name, value, most in (
        ("--users", arguments.users, 32),
        ("--input-tokens", arguments.input_tokens, MAX_TOKENS),
        ("--new-tokens", arguments.new_tokens, MAX_TOKENS),
        ("--links", arguments.links, 16),
        ("--layers", arguments.layers, 1000),
        ("--circular-buffer-bytes", arguments.circular_buffer_bytes, 2**40),
    ):
        if value is not None and not 1 <= value <= most:
            raise ConfigError(f"{name} must be 1 to {most}, got {value}")
    if arguments.precision not in ("performance", "accuracy"):
        raise ConfigError(
            f"no precision {arguments.precision!r} on the device; choose performance, accuracy"
        )
    if arguments.topology not in (None, "ring", "line"):
        raise ConfigError(f"no topology {arguments.topology!r}; choose ring, line")
    model = PRESETS.get(arguments.model) or read_config(locate(arguments.model))
    model = replace(model, n_layers=min(model.n_layers, arguments.layers or model.n_layers))
    machine = Machine.load(arguments.machine)
    machine = replace(
        machine,
        links=arguments.links or machine.links,
        topology=arguments.topology or machine.topology,
    )
    mesh = Mesh.parse(arguments.mesh or machine.mesh)
    estimator = Estimator(
        model,
        machine,
        mesh,
        PRECISIONS[arguments.precision],
        users=arguments.users,
        prefetch=not arguments.no_prefetch,
        circular_buffer_bytes=arguments.circular_buffer_bytes,
        slowness=Slowness.parse(arguments.slow_chip, arguments.slow_link, mesh),
    )
    return estimator, model, mesh, machine


if __name__ == "__main__":
    sys.exit(main())
