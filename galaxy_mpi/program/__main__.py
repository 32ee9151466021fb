"""What a step does, phase by phase: ``galaxy-mpi program --model demo --mesh 2x2``.

As a command, it may import packages above this one.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.config import formats
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import shown
from galaxy_mpi.files import write_text
from galaxy_mpi.models import chosen_layout
from galaxy_mpi.program import HEAD
from galaxy_mpi.studies.listing import Listing
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.system_arguments import add_formats, add_layout, add_machine, add_model
from galaxy_mpi.systems import SYSTEMS, PassShape, chosen_system
from galaxy_mpi.timing.costs import Costs

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.program",
        "Print the program of a decode step or prefill pass: phases, ops, tensors, messages, and "
        "the device time of each.",
    )
    add = parser.add_argument_group("model and step").add_argument
    add_model(add, "demo")
    add("--users", type=int, default=32, metavar="N", help="users of a decode step")
    add("--position", type=int, default=128, metavar="N", help="position of all users in the step")
    add("--prefill", type=int, metavar="N", help="show a prefill pass of N tokens instead")
    add("--layer", default="0", metavar="N|head", help="the layer to show in full, or the head")
    add = parser.add_argument_group("emulated system").add_argument
    add("--mesh", default="2x2", metavar="RxC", help="rows x columns")
    add("--system", default="galaxy", metavar="NAME|FILE.py:NAME", help=" or ".join(SYSTEMS))
    add_layout(add)
    add_formats(add)
    add_machine(add)
    add("--no-prefetch", action="store_true", help="matmuls read their weights from DRAM")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, metavar="FILE", help="write to a file instead of standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the program."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        what_if = WhatIf(
            model=arguments.model,
            users=arguments.users,
            input_tokens=arguments.prefill or arguments.position,
            new_tokens=1,
            mesh=arguments.mesh,
            machine=arguments.machine,
            system=chosen_system(arguments.system),
            layout_class=chosen_layout(arguments.layout),
            **formats(arguments.precision, arguments.optimizations, arguments.formats),
            prefetch=not arguments.no_prefetch,
            allow_over_budget=True,
        )
        programs = what_if.programs
        layers = {"head": HEAD} | {str(layer): layer for layer in range(programs.n_layers)}
        if arguments.layer not in layers:
            raise ConfigError(
                f"--layer must be 0 to {programs.n_layers - 1} or head, got "
                f"{shown(arguments.layer)}"
            )
        text = _text(what_if, arguments.prefill, layers[arguments.layer])

        def play() -> None:
            if arguments.output is None:
                print(text)
            write_text(arguments.output, f"{text}\n")

        return play

    return run_alone(build_parser(), argv, prepare)


def _text(what_if: WhatIf, n_tokens: int | None, layer: int) -> str:
    programs, system = what_if.programs, what_if.programs.system
    costs = Costs(programs.on(what_if.emulated_machine))
    if n_tokens is None:
        what, program = f"a decode step of {what_if.users} users", programs.decode()
        algorithms = system.decode_algorithms
    else:
        what = f"a prefill pass of {n_tokens} tokens"
        program = programs.prefill(PassShape.of_prompt(n_tokens))
        algorithms = system.prefill_algorithms
    positions = [what_if.input_tokens] * programs.mesh.cols
    listing = Listing(program, costs, programs.mesh, algorithms, positions)
    shape, timing = programs.shape, listing.timing
    inputs = ", ".join(f"{name} {tensor.shape}" for name, tensor in program.inputs.items())
    results = ", ".join(f"{name} {tensor.shape}" for name, tensor in program.results.items())
    padding = ", ".join(programs.layout.padding) or "none"
    about = [
        f"{what}: {what_if.model} on {programs.asked_mesh}, system {system.name}, "
        f"{programs.precision.name}",
        f"on a chip: {shape.heads} heads and {shape.kv_heads} kv heads of {shape.head_dim}, "
        f"dim {shape.dim}, feed-forward {shape.hidden}, vocabulary {shape.vocab}, "
        f"{shape.users_each} users; padding: {padding}",
        f"inputs: {inputs}",
        f"results: {results}",
        f"{len(program.uses)} ops in {listing.n_phases} phases; = marks an exchange; "
        f"{timing.seconds * 1e3:.3f} ms of device time, including gaps",
    ]
    heading = [textwrap.fill(line, 80, subsequent_indent="  ") for line in about]
    return "\n".join([*heading, "", *listing.lines(layer)])


if __name__ == "__main__":
    sys.exit(main())
