"""Device time without weights, values or ranks: ``python -m galaxy_mpi.estimate``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.checkpoints import locate, read_config
from galaxy_mpi.command import ArgumentParser, run_alone
from galaxy_mpi.device import MACHINES, Machine
from galaxy_mpi.engine.estimator import DeviceTimes, Estimator
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.models.presets import PRESETS
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
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns")
    add(
        "--machine",
        default="wormhole_galaxy_6u",
        metavar="NAME|FILE",
        help=f"constants of the chips: {', '.join(MACHINES)}, or a YAML file",
    )
    add("--links", type=int, metavar="N", help="links between neighbours, instead of the machine's")
    add("--topology", metavar="T", help="ring or line, instead of the machine's")
    add("--precision", default="performance", help="performance or accuracy")
    add("--layers", type=int, metavar="N", help="only the first N layers")
    add("--no-prefetch", action="store_true", help="matmuls read their weights from DRAM")
    add("--circular-buffer-bytes", type=int, metavar="N", help="device bytes a chip")
    add("--json", type=Path, metavar="FILE", help="write the figures; - is standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Estimate, print a table, write JSON."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        estimator, model = _estimator(arguments)

        def play() -> None:
            times = estimator.run(arguments.input_tokens, arguments.new_tokens)
            report = {
                "schema_version": 1,
                "model": arguments.model,
                "mesh": arguments.mesh,
                "machine": arguments.machine,
                "system": "galaxy",
                "precision": arguments.precision,
                "users": arguments.users,
                "input_tokens": arguments.input_tokens,
                "new_tokens": arguments.new_tokens,
                "device": times.to_dict(),
            }
            if str(arguments.json) == "-":
                print(json.dumps(report, indent=2))
                return
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
            print(_table(arguments, model, times))

        return play

    return run_alone(build_parser(), argv, prepare)


def _estimator(arguments: argparse.Namespace) -> tuple[Estimator, LlamaConfig]:
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
    estimator = Estimator(
        model,
        machine,
        Mesh.parse(arguments.mesh),
        PRECISIONS[arguments.precision],
        users=arguments.users,
        prefetch=not arguments.no_prefetch,
        circular_buffer_bytes=arguments.circular_buffer_bytes,
    )
    return estimator, model


def _table(arguments: argparse.Namespace, model: LlamaConfig, times: DeviceTimes) -> str:
    figures = times.to_dict()
    step_s = figures["decode_step_s"]
    rows = [
        ("model", f"{arguments.model}, {model.n_layers} layers, dim {model.dim}"),
        ("mesh, machine", f"{arguments.mesh}, {arguments.machine}"),
        ("system, precision", f"galaxy, {arguments.precision}"),
        (
            "users, tokens",
            f"{arguments.users}, {arguments.input_tokens} in, {arguments.new_tokens} new",
        ),
        ("device: decode step", f"{step_s * 1e3:.3f} ms"),
        ("device: decode layer", f"{figures['decode_layer_s'] * 1e6:.2f} us"),
        ("device: tokens/s/user", f"{figures['tokens_per_s_per_user']:.2f}"),
        ("device: tokens/s", f"{figures['tokens_per_s']:.1f} (all users)"),
        ("device: time to first token", f"{figures['time_to_first_token_s'] * 1e3:.1f} ms"),
        (
            "device: prefetch stall",
            f"{figures['prefetch_stall_s'] * 1e6:.1f} us a step "
            f"({figures['prefetch_stall_s'] / step_s:.1%})",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += ["", f"{'op of a decode step':<34}{'us a step':>11}{'share':>8}"]
    for name, seconds in sorted(figures["by_op_s"].items(), key=lambda item: -item[1]):
        if seconds > 0:
            lines.append(f"{name:<34}{seconds * 1e6:>11.1f}{seconds / step_s:>8.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
