"""Generate text on the emulated mesh: ``galaxy-mpi decode``."""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    gc.disable()  # imports make no garbage, and collecting takes 8 % of their time
    one_thread_per_rank()

from galaxy_mpi.command import run_on_mesh
from galaxy_mpi.decode_arguments import build_parser, run_config
from galaxy_mpi.engine import Engine
from galaxy_mpi.errors import INTERRUPTED, ConfigError
from galaxy_mpi.files import write_text
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.ending import end_process, terminated_as_interrupted, uninterrupted
from galaxy_mpi.mesh.lifeline import is_other_rank
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.progress import FirstWords, Progress
from galaxy_mpi.streams import write_past_mpirun

if TYPE_CHECKING:
    from galaxy_mpi.engine.golden import Golden
    from galaxy_mpi.engine.report import Report
    from galaxy_mpi.studies.against import Against

GOLDEN_DIFFERS = 1
"""Exit code."""

__all__ = ["build_parser", "main", "run_config"]


def main(argv: Sequence[str] | None = None) -> int:
    """Decode; print the text and what it cost."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[Transport], int]]:
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        run = run_config(arguments)
        golden = _golden(arguments)
        if arguments.against is not None:
            # Imported here because an ordinary run does not need it.
            from galaxy_mpi.studies.against import other_run

            other_run(run, arguments.against)  # raises before the first run, if it cannot be
        if arguments.quiet and not is_other_rank(os.environ):  # only rank 0 logs
            import logging  # 32 ranks load this module: what few of them need is loaded there

            logging.getLogger("galaxy_mpi").setLevel(logging.ERROR)

        first_words.cancel()

        def play(transport: Transport) -> int:
            shown = transport.rank == 0 and not arguments.quiet
            with ExitStack() as stack:
                hooks = stack.enter_context(Progress(enabled=shown)).hooks()
                if arguments.stream and transport.rank == 0:
                    from galaxy_mpi.output import write_now
                    from galaxy_mpi.stream import Stream  # few runs need it

                    write_past_mpirun(os.environ)
                    stream = Stream(write_now, len(run.prompts or ()) or 2)
                    hooks = hooks._replace(generated=stream.generated)
                if transport.rank == 0:
                    stack.enter_context(terminated_as_interrupted())
                if arguments.flight is not None:
                    from galaxy_mpi.flight_recorder import recording  # few runs need it

                    flight = stack.enter_context(recording(arguments.flight, transport.rank))
                    hooks = hooks._replace(
                        before_step=flight.step,
                        before_unpack=flight.weight,
                        before_crossing=flight.crossing,
                    )
                if arguments.against is not None:
                    from galaxy_mpi.studies.against import run_against

                    report, against = run_against(run, arguments.against, transport, hooks)
                else:
                    against = None
                    report = stack.enter_context(Engine(run, transport, hooks)).generate()
                if report is None:
                    return 0
                uninterrupted()
                more = {} if against is None else {"against": against.to_dict()}
                # Only rank 0 needs these.
                import logging

                from galaxy_mpi.engine.report_text import report_text
                from galaxy_mpi.output import print_text

                # Print before writing: a full disk must not lose the result.
                try:
                    shows = {"show_all": arguments.show_all, "has_texts": not arguments.stream}
                    print_text(report_text(report, **shows))
                    if against is not None:
                        print_text(against.to_text())
                finally:
                    report.write_files(_page(report, against, golden), **more)
                for line in report.missed():
                    logging.getLogger("galaxy_mpi").warning("galaxy_mpi: %s", line)
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


def _page(report: "Report", against: "Against | None", golden: "Golden | None") -> str | None:
    """Return what --report writes."""
    if report.run.report_path is None:
        return None
    from galaxy_mpi.report import to_html  # here: only pages need it
    from galaxy_mpi.report.gather.decode import decode_page

    return to_html(decode_page(report, against, golden))


def _golden(arguments: argparse.Namespace) -> "Golden | None":
    """Return the golden tokens, None if there are none to compare with."""
    if arguments.golden is None:
        if arguments.update_golden:
            raise ConfigError("--update-golden writes the file of --golden; name one")
        return None
    if arguments.update_golden:
        return None
    from galaxy_mpi.engine.golden import Golden  # few runs need it

    return Golden.read(arguments.golden)


def _told_golden(golden: "Golden", report: "Report") -> int:
    """Print which users differ; return the exit code."""
    lines = golden.differences(report.tokens)
    print("\n".join(["", *(lines or [f"all users are as in {golden.path}"])]), flush=True)
    return GOLDEN_DIFFERS if lines else 0


if __name__ == "__main__":
    gc.freeze()  # what was imported stays
    gc.enable()
    sys.exit(main())
