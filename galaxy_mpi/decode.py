"""Continue prompts on the emulated mesh: ``mpirun -n 32 python -m galaxy_mpi.decode``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.command import ArgumentParser, run_on_mesh
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Batch, Engine
from galaxy_mpi.engine.engine import Hooks
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh, Transport

__all__ = ["build_parser", "main", "run_config"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.decode",
        "Continue prompts on an emulated mesh of Wormhole chips, one MPI rank a chip.",
    )
    add = parser.add_argument
    add("--model", default="demo", help="Hugging Face folder, or demo", metavar="PATH|NAME")
    add("--prompt", action="append", help="a prompt; may be repeated, one user each")
    add("--prompts-file", type=Path, help="a file with one prompt a line")
    add("--max-new-tokens", type=int, default=32, metavar="N", help="tokens to generate per user")
    add("--batch", type=int, metavar="N", help="user places, at most 32; idle if not needed")
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns; as many ranks")
    add("--precision", default="performance", help="performance, accuracy or float32")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--top-k", type=int, default=32, help="candidates to sample from, at most 32")
    add("--top-p", type=float, default=1.0, help="share of probability to sample from")
    add("--seed", type=int, default=0, help="of the users' random streams")
    add("--layers", type=int, metavar="N", help="only the first N layers")
    add("--no-prefetch", action="store_true", help="unpack weights when they are used")
    add("--circular-buffer-bytes", type=int, metavar="N", help="bound of unpacked weights a rank")
    add("--json", type=Path, metavar="FILE", help="write tokens, text and figures")
    add("--show-all", action="store_true", help="print all users, not the first 4")
    add("--quiet", action="store_true", help="nothing on standard error but errors")
    return parser


def run_config(arguments: argparse.Namespace) -> RunConfig:
    """Return the checked configuration of parsed arguments."""
    return RunConfig(
        model=arguments.model,
        prompts=None if arguments.prompt is None else tuple(arguments.prompt),
        prompts_file=arguments.prompts_file,
        max_new_tokens=arguments.max_new_tokens,
        batch=arguments.batch,
        mesh=Mesh.parse(arguments.mesh),
        precision=arguments.precision,
        sampling=SamplingParams(
            arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
        ),
        n_layers=arguments.layers,
        prefetch=not arguments.no_prefetch,
        circular_buffer_bytes=arguments.circular_buffer_bytes,
        json_path=arguments.json,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Decode and print what came out and what it cost."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[Transport], None]]:
        run = run_config(arguments)

        def play(transport: Transport) -> None:
            shown = transport.rank == 0 and not arguments.quiet
            with (
                _Progress(enabled=shown) as progress,
                Engine(run, transport, progress.hooks(transport.rank)) as engine,
            ):
                report = engine.generate()
            if report is not None:
                if run.json_path is not None:
                    report.write_json(run.json_path)
                print(report.to_text(show_all=arguments.show_all), flush=True)

        return run.mesh, play

    return run_on_mesh(build_parser(), argv, prepare)


class _Progress:
    """A bar on standard error for loading and one for decoding; silent unless enabled."""

    def __init__(self, *, enabled: bool) -> None:
        self._bar: Any = None
        if enabled:
            from tqdm import tqdm  # here, not above: 31 of 32 ranks show nothing

            self._bar = tqdm(desc="loading", unit="layer", mininterval=0.5)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def hooks(self, rank: int) -> Hooks:
        """Return the hooks that move the bar; and fail where a test asks a rank to."""
        fail_rank, _, fail_step = os.environ.get("GALAXY_MPI_TEST_FAIL", "").partition(":")

        def before_step(step: int) -> None:
            if fail_rank == str(rank) and fail_step == str(step):
                raise RuntimeError(f"GALAXY_MPI_TEST_FAIL asked rank {rank} to fail")

        return Hooks(loaded_layer=self._loaded, before_step=before_step, after_step=self._stepped)

    def _loaded(self, layer: int, n_layers: int) -> None:
        if self._bar is not None:
            self._bar.total = n_layers
            self._bar.update()

    def _stepped(self, step: int, batch: Batch) -> None:
        if self._bar is None:
            return
        if step == 1:
            self._bar.reset()
            self._bar.total = batch.n_steps_at_most
            self._bar.set_description("decoding")
            self._bar.unit = "step"
        self._bar.update()


if __name__ == "__main__":
    sys.exit(main())
