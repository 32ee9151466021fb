"""Generate text on the emulated mesh: ``galaxy-mpi decode``."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    gc.disable()  # imports make no garbage, and collecting takes 8 % of their time
    one_thread_per_rank()

from galaxy_mpi.checkpoints import cache_folder
from galaxy_mpi.command import ArgumentParser, add_transport, run_on_mesh
from galaxy_mpi.config import RunConfig, formats
from galaxy_mpi.engine import Engine
from galaxy_mpi.engine.golden import Golden
from galaxy_mpi.engine.report import Report
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.flight_recorder import recording
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.ending import end_process, terminated_as_interrupted
from galaxy_mpi.mesh.lifeline import is_other_rank
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import chosen_layout
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.output import print_text, write_now, write_text
from galaxy_mpi.program import Choice
from galaxy_mpi.progress import FirstWords, Progress
from galaxy_mpi.stream import Stream
from galaxy_mpi.system_arguments import add_slow_parts
from galaxy_mpi.systems import SYSTEMS, chosen_modules, chosen_system

if TYPE_CHECKING:
    from galaxy_mpi.studies.against import Against

GOLDEN_DIFFERS, INTERRUPTED = 1, 130
"""Exit codes."""

__all__ = ["build_parser", "main", "run_config"]


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
    add(
        "--layout",
        metavar="FILE.py:CLASS",
        help="your own sharding of weights, a subclass of galaxy_mpi.models.Layout",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="machine.NAME=VALUE",
        help="override a constant of the machine; may be repeated",
    )
    add("--precision", help="performance (default), accuracy or float32")
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
    add(
        "--machine",
        default=os.environ.get("WH_ARCH_YAML") or "wormhole_galaxy_6u",
        metavar="NAME|FILE",
        help="constants of the chips; the environment variable WH_ARCH_YAML sets the default",
    )
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
        help="run again in another precision, system or formats file with the same tokens, and "
        "show where values differ",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Decode; print the text and what it cost."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[Transport], int]]:
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        run = run_config(arguments)
        golden = _golden(arguments)
        if arguments.quiet:
            logging.getLogger("galaxy_mpi").setLevel(logging.ERROR)

        first_words.cancel()

        def play(transport: Transport) -> int:
            shown = transport.rank == 0 and not arguments.quiet
            with ExitStack() as stack:
                hooks = stack.enter_context(Progress(enabled=shown)).hooks()
                if arguments.stream and transport.rank == 0:
                    stream = Stream(write_now, len(run.prompts or ()) or 2)
                    hooks = replace(hooks, generated=stream.generated)
                if transport.rank == 0:
                    stack.enter_context(terminated_as_interrupted())
                if arguments.flight is not None:
                    flight = stack.enter_context(recording(arguments.flight, transport.rank))
                    hooks = replace(
                        hooks,
                        before_step=flight.step,
                        before_unpack=flight.weight,
                        before_crossing=flight.crossing,
                    )
                if arguments.against is not None:
                    # Imported here because an ordinary run does not need it.
                    from galaxy_mpi.studies.against import run_against

                    report, against = run_against(run, arguments.against, transport, hooks)
                else:
                    against = None
                    report = stack.enter_context(Engine(run, transport, hooks)).generate()
                if report is None:
                    return 0
                more = {} if against is None else {"against": against.to_dict()}
                # Print before writing: a full disk must not lose the result.
                try:
                    has_texts = not arguments.stream
                    print_text(report.to_text(show_all=arguments.show_all, has_texts=has_texts))
                    if against is not None:
                        print_text(against.to_text())
                finally:
                    report.write_files(_page(report, against, golden), **more)
                if report.is_interrupted:
                    if transport.n_ranks > 1:  # the others wait, and would for ever
                        end_process(code=INTERRUPTED)
                    return INTERRUPTED
            if arguments.update_golden:
                write_text(arguments.golden, report.to_json())
            return 0 if golden is None else _told_golden(golden, report)

        return run.working_mesh, play

    words = sys.argv[1:] if argv is None else argv
    is_shown = not {"--quiet", "-h", "--help"} & set(words) and not is_other_rank(os.environ)
    first_words = FirstWords("starting the ranks of the run", enabled=is_shown)
    try:
        return run_on_mesh(build_parser(), argv, prepare)
    finally:
        first_words.cancel()


def _page(report: Report, against: "Against | None", golden: Golden | None) -> str | None:
    """Return what --report writes."""
    if report.run.report_path is None:
        return None
    from galaxy_mpi.report import to_html  # here: only pages need it
    from galaxy_mpi.report.gather.decode import decode_page

    return to_html(decode_page(report, against, golden))


def _golden(arguments: argparse.Namespace) -> Golden | None:
    """Return the golden tokens, None if there are none to compare with."""
    if arguments.golden is None:
        if arguments.update_golden:
            raise ConfigError("--update-golden writes the file of --golden; name one")
        return None
    return None if arguments.update_golden else Golden.read(arguments.golden)


def _told_golden(golden: Golden, report: Report) -> int:
    """Print which users differ; return the exit code."""
    lines = golden.differences(report.tokens)
    print("\n".join(["", *(lines or [f"all users are as in {golden.path}"])]), flush=True)
    return GOLDEN_DIFFERS if lines else 0


if __name__ == "__main__":
    gc.enable()
    sys.exit(main())
