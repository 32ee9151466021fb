"""Accuracy against device time: ``mpirun -n 4 python -m galaxy_mpi.pareto --mesh 2x2``.

Formats are tried by tensor group, and layer by layer if that is asked for. Their accuracy is
measured on ranks, against the float32 run of the same model; their device time is that of the
target, which may have another mesh.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser, add_transport
from galaxy_mpi.command import run_on_mesh
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.forced_text import plan_of_text
from galaxy_mpi.engine.measuring import Measuring
from galaxy_mpi.engine.quality import Quality
from galaxy_mpi.engine.ran import versions
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import check_page, check_writable, write_all
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import chosen_layout
from galaxy_mpi.progress import Counter
from galaxy_mpi.studies.asked_systems import system_of_machine
from galaxy_mpi.studies.candidates import Candidate, Grid, named_candidates
from galaxy_mpi.studies.goals import METRICS, Goal, check_metric
from galaxy_mpi.studies.pareto_report import Found
from galaxy_mpi.studies.pareto_search import Search
from galaxy_mpi.studies.target_clock import Cost, TargetClock
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.system_arguments import add_constants, add_layout, add_machine
from galaxy_mpi.systems import SYSTEMS, chosen_system
from galaxy_mpi.systems.optimizations import optimizations_json
from galaxy_mpi.timing import Machine

__all__ = ["ParetoCommand", "build_parser", "main"]

_PAGE = 64
"""Positions of a block of the KV cache."""


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.pareto",
        "Find the formats that no others are both faster and more accurate than.",
    )
    add = parser.add_argument_group("model and text").add_argument
    add("--model", default="demo", metavar="PATH|NAME", help="as in galaxy-mpi decode")
    add("--text", type=Path, metavar="FILE", help="UTF-8 text; required")
    add("--tokens", type=int, default=512, metavar="N", help="its first N tokens, in one pass")
    add("--layers", type=int, metavar="N", help="only the first N layers, on the target too")
    add("--mesh", default="8x4", metavar="RxC", help="on which accuracy is measured; as many ranks")
    add = parser.add_argument_group("target of the device time").add_argument
    add_machine(add)
    add("--target-mesh", metavar="RxC", help="rows x columns, instead of the machine's")
    add(
        "--system",
        metavar="NAME|FILE.py:NAME",
        help=f"{' or '.join(SYSTEMS)}, for both; by default the machine's",
    )
    add_layout(add)
    add_constants(add)
    add("--users", type=int, default=32, metavar="N", help="users of a decode step")
    add("--input-tokens", type=int, default=128, metavar="N", help="tokens of each prompt")
    add("--new-tokens", type=int, default=128, metavar="N", help="decode steps after it")
    add = parser.add_argument_group("search").add_argument
    add(
        "--try",
        dest="tried",
        action="append",
        default=[],
        metavar="GROUP=F,F,...",
        help="formats to try for a tensor group; may be repeated",
    )
    add("--formats", metavar="TENSOR=FORMAT,...", help="as in galaxy-mpi decode, for all")
    add("--all", action="store_true", help="measure all combinations of groups, not the likely")
    add("--by-layer", action="store_true", help="then also layer by layer, greedily")
    add("--metric", metavar="NAME", help=f"of the front: {', '.join(METRICS)}; default: top1")
    add(
        "--target",
        action="append",
        default=[],
        metavar="METRIC>=N",
        help="write the fastest formats that meet it, as top1>=95 (percent) or perplexity<=20; "
        "may be repeated",
    )
    add = parser.add_argument_group("output").add_argument
    add(
        "--write",
        type=Path,
        default=Path("optimizations.json"),
        metavar="FILE",
        help="with --target: the file for --optimizations",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add("--csv", type=Path, metavar="FILE", help="write a row for each formats measured")
    add("--plot", type=Path, metavar="FILE.png", help="draw the front")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    add("--quiet", action="store_true", help="show no progress")
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Search, print the front, write files."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[Transport], int]]:
        command = ParetoCommand(arguments, sys.argv[1:] if argv is None else argv)
        return command.run.working_mesh, command.play

    return run_on_mesh(build_parser(), argv, prepare)


@dataclass(frozen=True)
class ParetoCommand:
    """The command with its arguments, checked when it is made.

    Raises
    ------
    ConfigError
        If a value cannot be used.
    """

    arguments: argparse.Namespace
    words: Sequence[str] = ()
    """As they were given, for the report."""

    def __post_init__(self) -> None:
        arguments = self.arguments
        if arguments.text is None:
            raise ConfigError("--text is missing; give a file of UTF-8 text")
        if arguments.tokens < 2:
            raise ConfigError(f"--tokens must be at least 2, got {arguments.tokens}")
        for option in ("json", "csv", "plot"):
            check_writable(f"--{option}", getattr(arguments, option))
        check_page(arguments.report)
        if arguments.target:
            check_writable("--write", arguments.write)
        Grid.parse(arguments.tried, 1)
        assert self.run is not None
        assert self.metric

    @cached_property
    def goals(self) -> list[Goal]:
        """What --target asks for."""
        return [Goal.parse(text) for text in self.arguments.target]

    @cached_property
    def metric(self) -> str:
        """Of the front."""
        first = self.goals[0].metric if self.goals else "top1"
        return check_metric("--metric", self.arguments.metric or first)

    @cached_property
    def run(self) -> RunConfig:
        """The run that measures."""
        arguments = self.arguments
        machine = Machine.load(arguments.machine)
        name = arguments.system
        system = system_of_machine(machine) if name is None else chosen_system(name)
        return RunConfig(
            model=arguments.model,
            prompt_tokens=((0,),),
            mesh=Mesh.parse(arguments.mesh),
            system=system,
            layout_class=chosen_layout(arguments.layout),
            formats=arguments.formats,
            n_layers=arguments.layers,
            page_size=_PAGE,
            cache_blocks=-(-arguments.tokens // _PAGE),
        )

    def target(self) -> TargetClock:
        """Return the clock of the target."""
        arguments = self.arguments
        return TargetClock(
            WhatIf(
                model=arguments.model,
                users=arguments.users,
                input_tokens=arguments.input_tokens,
                new_tokens=arguments.new_tokens,
                mesh=arguments.target_mesh,
                machine=arguments.machine,
                constants=tuple(arguments.set),
                system=self.run.system,
                layout_class=self.run.layout_class,
                formats=arguments.formats,
                layers=arguments.layers,
                allow_over_budget=True,
            )
        )

    def play(self, transport: Transport) -> int:
        """Run on this rank; return the exit code."""
        arguments, run, began = self.arguments, self.run, time.perf_counter()
        plan, tokens = transport.from_root(
            lambda: plan_of_text(run, arguments.text, arguments.tokens)
        )
        with Counter(
            "measuring", "pass", enabled=transport.rank == 0 and not arguments.quiet
        ) as counter:
            measuring = Measuring(run, plan, transport, tokens, counter.step)
            results: list[Found] = []
            measuring.lead(lambda: results.append(self._search(measuring)))
        for found in results:  # on rank 0
            self._report(found, time.perf_counter() - began)
            return 0 if found.answer is not None or not self.goals else 1
        return 0

    def _search(self, measuring: Measuring) -> Found:
        arguments, run, clock = self.arguments, self.run, self.target()
        n_layers = measuring.n_layers

        def measure(candidate: Candidate, *, keeps: bool = False) -> Quality:
            return measuring.measure(candidate.settings, keeps=keeps)

        def cost(candidate: Candidate) -> Cost:
            return clock.cost(candidate.settings)

        search = Search(Grid.parse(arguments.tried, n_layers), measure, cost, self.goals)
        names = named_candidates(
            run.emulated_system.settings, clock.what_if.programs.model, n_layers
        )
        for candidate in names:
            search.quality(candidate)
        search.by_group(is_exhaustive=arguments.all)
        if arguments.by_layer:
            search.by_layer()
        points = search.points(names)
        if not points:
            raise ConfigError("no formats that were tried fit a chip of the target; see estimate")
        return Found(
            points=points,
            metric=self.metric,
            goals=self.goals,
            answer=search.answer(points) if self.goals else None,
            run=run,
            clock=clock,
            measuring=measuring,
            n_not_fitting=search.n_not_fitting,
        )

    def _report(self, found: Found, host_s: float) -> None:
        arguments, answer = self.arguments, found.answer
        said = {"argv": ["galaxy_mpi.pareto", *self.words], "versions": versions()}
        lines = [found.table(), "", *found.remarks(), f"{host_s:.0f} s of host time"]
        files: list[tuple[Path | None, str | bytes]] = []
        if self.goals:
            asked = ", ".join(map(str, self.goals))
            lines.append(f"nothing that was measured meets {asked}")
            if answer is not None:
                lines[-1] = f"{arguments.write}: the fastest measured that meets {asked}"
                files.append((arguments.write, optimizations_json(answer.candidate.settings)))
        print("\n".join(lines), flush=True)
        content = found.to_dict(said)
        files.append((arguments.json, json.dumps(content, indent=2) + "\n"))
        files.append((arguments.csv, found.to_csv()))
        if arguments.plot is not None:
            files.append((arguments.plot, found.to_png()))
        if arguments.report is not None:
            from galaxy_mpi.report import to_html  # here: only pages need it
            from galaxy_mpi.report.gather.pareto import pareto_page

            files.append((arguments.report, to_html(pareto_page(content))))
        write_all(files)


if __name__ == "__main__":
    sys.exit(main())
