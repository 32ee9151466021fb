"""The arguments of ``galaxy-mpi decode``, and the run that they describe."""

import argparse
import os
from pathlib import Path

from galaxy_mpi.arguments import ArgumentParser, add_transport
from galaxy_mpi.checkpoints import cache_folder
from galaxy_mpi.config import RunConfig, formats
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import chosen_layout
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.program import Choice
from galaxy_mpi.system_arguments import (
    add_constants,
    add_formats,
    add_layout,
    add_machine,
    add_slow_parts,
)
from galaxy_mpi.systems import SYSTEMS, chosen_modules, chosen_system

__all__ = ["build_parser", "run_config"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.decode",
        "Generate text on an emulated mesh of Wormhole chips, one MPI rank per chip.",
    )
    add = parser.add_argument_group("model and prompts").add_argument
    add(
        "--model",
        default=os.environ.get("LLAMA_DIR") or "demo",
        help="Hugging Face or Meta folder, GGUF file, demo, smollm2, or a preset with random "
        f"weights: {', '.join(PRESETS)}. The environment variable LLAMA_DIR sets the default",
        metavar="PATH|NAME",
    )
    add("--prompt", action="append", metavar="TEXT", help="a prompt; repeat for more users")
    add(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help="file with one prompt per line, in .jsonl files as JSON; - is standard input",
    )
    add("--skip-bad", action="store_true", help="leave out prompts that cannot be used")
    add("--truncate", action="store_true", help="of prompts that are too long, use the end")
    add("--max-new-tokens", type=int, default=32, metavar="N", help="tokens to generate per user")
    add("--batch", type=int, metavar="N", help="users at a time, at most 32; more prompts wait")
    add("--chat", action="store_true", help="put prompts into the model's chat template")
    add("--layers", type=int, metavar="N", help="use only the first N layers")
    add = parser.add_argument_group("emulated system").add_argument
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns of chips")
    add(
        "--system",
        default="galaxy",
        metavar="NAME|FILE.py:NAME",
        help=f"{' or '.join(SYSTEMS)}, or your own System",
    )
    add(
        "--attention-class",
        metavar="FILE.py:CLASS",
        help="your own subclass of galaxy_mpi.systems.Attention",
    )
    add(
        "--norm-class",
        metavar="FILE.py:CLASS",
        help="your own subclass of galaxy_mpi.systems.RMSNorm",
    )
    add(
        "--rope-class",
        metavar="FILE.py:CLASS",
        help="your own subclass of galaxy_mpi.kernels.RotaryTable",
    )
    add_layout(add)
    add_constants(add)
    add_formats(add, "performance (default), accuracy or float32")
    add("--no-fidelity", action="store_true", help="matmuls use all bits of their inputs")
    add("--collectives", metavar="NAME", help="direct, ring or line for all collectives")
    add = parser.add_argument_group("sampling").add_argument
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is greedy (default: 0; with --chat, the model's)",
    )
    add("--top-k", type=int, metavar="K", help="sample from the K best tokens, at most 32")
    add(
        "--top-p", type=float, metavar="P", help="sample from the tokens that make up probability P"
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of the users' random streams")
    add = parser.add_argument_group("memory").add_argument
    add("--no-prefetch", action="store_true", help="unpack a weight when it is used")
    add("--circular-buffer-bytes", type=int, metavar="N", help="limit of unpacked weights per rank")
    add(
        "--weights-cache",
        default=str(cache_folder() / "shards"),
        metavar="DIR|off",
        help="where packed weights are kept for the next run (of a preset only if given)",
    )
    add("--page-size", type=int, default=64, metavar="N", help="positions per KV cache block")
    add("--cache-blocks", type=int, default=2048, metavar="N", help="KV cache blocks per column")
    add("--no-prefix-cache", action="store_true", help="recompute prefixes that prompts share")
    add = parser.add_argument_group("checks").add_argument
    add(
        "--check",
        action="store_true",
        help="check the output of every op, compare chips that must hold the same values, and "
        "overwrite memory as soon as it may be reused (slower)",
    )
    add = parser.add_argument_group("device time").add_argument
    add_machine(add)
    add_slow_parts(add)
    add = parser.add_argument_group("comparisons").add_argument
    add(
        "--golden",
        type=Path,
        metavar="FILE",
        help="exit with 1 if tokens differ from those of FILE, written by --json",
    )
    add("--update-golden", action="store_true", help="write the --golden file instead")
    add("--capture", type=Path, metavar="DIR", help="save the outputs of ops for galaxy-mpi diff")
    add("--capture-ops", metavar="NAMES", help="ops to capture; * matches anything: w2,qkv_heads.q")
    add("--capture-layers", metavar="LIST", help="layers to capture: 0,4-7,head")
    add(
        "--capture-steps",
        default="p1,1",
        metavar="LIST",
        help="decode steps to capture; p for prefill passes: p1,1-3",
    )
    add(
        "--against",
        metavar="NAME|FILE",
        help="run again with the same tokens, in another precision, formats file or system (that "
        "without your classes, layout and collectives), and show where values differ",
    )
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write a report: tokens, text and figures")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    add(
        "--trace",
        type=Path,
        metavar="FILE[.gz]",
        help="write the first steps in device time, for ui.perfetto.dev",
    )
    add("--trace-host", type=Path, metavar="FILE[.gz]", help="the same in host time")
    add("--profile-csv", type=Path, metavar="FILE", help="write the first steps for tt-perf-report")
    add(
        "--trace-steps",
        metavar="LIST",
        help="write these steps instead of the first, p for prefill passes: p1,1-3",
    )
    add(
        "--flight",
        type=Path,
        metavar="FOLDER",
        help="keep the last 1,000 events of each rank if the run fails",
    )
    add("--stream", action="store_true", help="print text as it comes")
    add("--show-all", action="store_true", help="print the text of all users, not only the first 4")
    add("--quiet", action="store_true", help="print only errors on standard error")
    add_transport(parser)
    return parser


def run_config(arguments: argparse.Namespace) -> RunConfig:
    """Return the checked configuration of parsed arguments."""
    return RunConfig(
        model=arguments.model,
        prompts=None if arguments.prompt is None else tuple(arguments.prompt),
        prompts_file=arguments.prompts_file,
        skip_bad=arguments.skip_bad,
        truncate=arguments.truncate,
        max_new_tokens=arguments.max_new_tokens,
        batch=arguments.batch,
        mesh=Mesh.parse(arguments.mesh),
        system=chosen_system(arguments.system),
        constants=tuple(arguments.set),
        **formats(arguments.precision, arguments.optimizations, arguments.formats),
        math_fidelity=not arguments.no_fidelity,
        sampling=_sampling(arguments),
        seed=arguments.seed,
        chat=arguments.chat,
        n_layers=arguments.layers,
        modules=chosen_modules(
            arguments.attention_class, arguments.norm_class, arguments.rope_class
        ),
        layout_class=chosen_layout(arguments.layout),
        prefetch=not arguments.no_prefetch,
        circular_buffer_bytes=arguments.circular_buffer_bytes,
        weights_cache=None if arguments.weights_cache == "off" else Path(arguments.weights_cache),
        page_size=arguments.page_size,
        cache_blocks=arguments.cache_blocks,
        prefix_caching=not arguments.no_prefix_cache,
        line_reduce_scatter=_switch("LINE_RS"),
        line_all_gather=_switch("LINE_AG"),
        collectives=arguments.collectives,
        check=arguments.check,
        machine=arguments.machine,
        slow_chips=tuple(arguments.slow_chip),
        slow_links=tuple(arguments.slow_link),
        argv=("galaxy_mpi.decode", *getattr(arguments, "argv", ())),
        capture_path=arguments.capture,
        capture=Choice(arguments.capture_ops, arguments.capture_layers, arguments.capture_steps),
        json_path=arguments.json,
        trace_path=arguments.trace,
        trace_steps=arguments.trace_steps,
        host_trace_path=arguments.trace_host,
        profile_path=arguments.profile_csv,
        report_path=arguments.report,
    )


def _sampling(arguments: argparse.Namespace) -> SamplingParams | None:
    """Return how tokens are chosen; None if no option says."""
    given = {
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
    }
    known = {name: value for name, value in given.items() if value is not None}
    if known:
        return SamplingParams(**known, seed=arguments.seed)
    SamplingParams(seed=arguments.seed)  # rejects an invalid seed
    return None


def _switch(name: str) -> bool:
    """Return whether an environment variable is 1.

    Raises
    ------
    ConfigError
        If it is set to anything but 0 or 1.
    """
    value = os.environ.get(name, "0")
    if value not in ("0", "1"):
        raise ConfigError(f"{name} is 1 (line) or 0 (ring), got {value!r}")
    return value == "1"
