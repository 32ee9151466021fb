"""Command-line arguments of the estimated model and system, shared by commands."""

import argparse
import os
from collections.abc import Callable

from galaxy_mpi.config import formats
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.models import chosen_layout
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import SYSTEMS, chosen_system
from galaxy_mpi.timing.profiles import MACHINES

__all__ = [
    "add_constants",
    "add_formats",
    "add_layout",
    "add_machine",
    "add_model",
    "add_slow_parts",
    "add_slowness",
    "add_system",
    "of_system",
]

Add = Callable[..., argparse.Action]
"""``add_argument`` of a group of arguments."""


def add_model(add: Add, default: str = "llama3-70b") -> None:
    """Add ``--model``."""
    add(
        "--model",
        default=default,
        metavar="PATH|NAME",
        help=f"folder with config.json, demo, or a preset: {', '.join(PRESETS)}",
    )


def add_machine(add: Add) -> None:
    """Add ``--machine``."""
    add(
        "--machine",
        default=os.environ.get("WH_ARCH_YAML") or "wormhole_galaxy_6u",
        metavar="NAME|FILE",
        help=f"constants of the chips: {', '.join(MACHINES)}, or a YAML file. The environment "
        "variable WH_ARCH_YAML sets the default",
    )


def add_constants(add: Add) -> None:
    """Add ``--set``."""
    add(
        "--set",
        action="append",
        default=[],
        metavar="machine.NAME=VALUE",
        help="override a constant of the machine; may be repeated",
    )


def add_layout(add: Add) -> None:
    """Add ``--layout``."""
    add(
        "--layout",
        metavar="FILE.py:CLASS",
        help="your own sharding of weights, a subclass of galaxy_mpi.models.Layout",
    )


def add_formats(add: Add, precisions: str = "performance (default) or accuracy") -> None:
    """Add ``--precision``, ``--optimizations`` and ``--formats``.

    Parameters
    ----------
    add : callable
    precisions : str
        The names that ``--precision`` takes.
    """
    add("--precision", metavar="NAME", help=precisions)
    add(
        "--optimizations",
        metavar="NAME|FILE",
        help="performance, accuracy, or a JSON file with the formats of each layer",
    )
    add(
        "--formats",
        metavar="TENSOR=FORMAT,...",
        help="formats that differ from the system's table, for example decode.wo_sum=bf16; with "
        "tt_transformers, start with row or mesh to choose its table for one row or for a mesh",
    )


def add_system(parser: argparse.ArgumentParser) -> Add:
    """Add the arguments of the emulated system; return ``add_argument`` of their group."""
    add = parser.add_argument_group("emulated system").add_argument
    add("--mesh", metavar="RxC", help="rows x columns of chips (default: the machine's)")
    add_machine(add)
    add("--links", type=int, metavar="N", help="links between neighbours (default: the machine's)")
    add("--topology", metavar="T", help="ring or line (default: the machine's)")
    add(
        "--system",
        metavar="NAME|FILE.py:NAME",
        help=f"{' or '.join(SYSTEMS)}, or your own System (default: the machine's)",
    )
    add_layout(add)
    add_constants(add)
    add("--sampling", metavar="WHERE", help="host or device: where tokens are chosen")
    add_formats(add)
    add("--no-prefetch", action="store_true", help="matmuls read their weights from DRAM")
    add("--circular-buffer-bytes", type=int, metavar="N", help="device bytes per chip")
    return add


def add_slow_parts(add: Add) -> None:
    """Add slow chips and links, with the ``add_argument`` of their group."""
    add(
        "--slow-chip",
        action="append",
        default=[],
        metavar="R,C,FACTOR",
        help="the ops of chip (R, C) take FACTOR times as long; may be repeated",
    )
    add(
        "--slow-link",
        action="append",
        default=[],
        metavar="R,C,AXIS,FACTOR",
        help="so does the link from chip (R, C) to the next in its row or column, as AXIS says; "
        "may be repeated",
    )


def add_slowness(parser: argparse.ArgumentParser) -> Add:
    """Add slow chips and links and the memory check; return ``add_argument`` of their group."""
    add = parser.add_argument_group("what if").add_argument
    add_slow_parts(add)
    add(
        "--allow-over-budget",
        action="store_true",
        help="continue if the model does not fit on a chip",
    )
    return add


def of_system(arguments: argparse.Namespace) -> JsonObject:
    """Return these arguments as those of `galaxy_mpi.studies.what_if.WhatIf`."""
    return {
        "model": arguments.model,
        "layers": arguments.layers,
        "mesh": arguments.mesh,
        "machine": arguments.machine,
        "links": arguments.links,
        "topology": arguments.topology,
        "system": None if arguments.system is None else chosen_system(arguments.system),
        "layout_class": chosen_layout(arguments.layout),
        "constants": tuple(arguments.set),
        "sampling": arguments.sampling,
        **formats(arguments.precision, arguments.optimizations, arguments.formats),
        "prefetch": not arguments.no_prefetch,
        "circular_buffer_bytes": arguments.circular_buffer_bytes,
        "slow_chips": tuple(arguments.slow_chip),
        "slow_links": tuple(arguments.slow_link),
        "allow_over_budget": arguments.allow_over_budget,
    }
