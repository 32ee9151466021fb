"""The device model compared with published times: ``galaxy-mpi validate``.

It shows three errors for each published time: in sample (of the model as fitted to all times), left
out (the mean error of fits that did not see its machine, length, model, system or kind), and of a
roofline model, which is the baseline.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.engine.ran import versions
from galaxy_mpi.files import check_page, check_writable, write_all
from galaxy_mpi.output import WIDTH, cell
from galaxy_mpi.studies.claims import Claim, older_claims
from galaxy_mpi.studies.validation import Comparison, Known, compare, known_times, left_out_errors
from galaxy_mpi.timing import MACHINES, Machine
from galaxy_mpi.timing.published import read_measurements

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.validate", "Compare modelled device times with published ones."
    )
    parser.add_argument("--golden", type=Path, metavar="FILE", help="predict the times in FILE too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        check_writable("--json", arguments.json)
        check_page(arguments.report)
        more = [] if arguments.golden is None else read_measurements(arguments.golden)

        def play() -> None:
            known, rows = known_times(), compare(more, is_calibration=False)
            content = {
                "schema_version": 2,
                "run": {
                    "argv": ["galaxy_mpi.validate", *(sys.argv[1:] if argv is None else argv)],
                    "machines": {name: asdict(Machine.load(name)) for name in MACHINES},
                    "versions": versions(),
                },
                "times": [*map(vars, known), *_to_json(rows)],
            }
            print(_known_table(known))
            if rows:
                print("\n" + _table(rows))
            claims = older_claims()
            print(_claims_table(claims), flush=True)
            files: list[tuple[Path | None, str | bytes]] = [
                (arguments.json, json.dumps(content, indent=2) + "\n")
            ]
            if arguments.report is not None:
                from galaxy_mpi.report import to_html  # here: only pages need it
                from galaxy_mpi.report.gather.validate import validate_page

                page = validate_page(content, left_out_errors(), claims)
                files.append((arguments.report, to_html(page)))
            write_all(files)

        return play

    return run_alone(build_parser(), argv, prepare)


def _known_table(rows: list[Known]) -> str:
    width = 32
    lines = [
        f"{'time in us':<{width}}{'published':>10}{'modelled':>10}{'in sample':>10}{'left out':>9}"
        f"{'roofline':>9}"
    ]
    for row in rows:
        left = "-" if row.left_out_error is None else f"{row.left_out_error:.1%}"
        roof = "-" if row.roofline_error is None else f"{row.roofline_error:+.0%}"
        lines.append(
            f"{cell(row.name, width)}{_micros(row.published_s):>10}{_micros(row.modelled_s):>10}"
            f"{row.error:>+10.1%}{left:>9}{roof:>9}"
        )
    lines += ["", f"{'mean absolute error':<{width}}{'times':>10}{'':>10}{'in sample':>10}"
              f"{'left out':>9}{'roofline':>9}"]  # fmt: skip
    for kind in dict.fromkeys(row.kind for row in rows):
        lines.append(_means(f"  {kind}", [row for row in rows if row.kind == kind], width))
    lines.append(_means("  all", rows, width))
    lines += ["", f"{'left out':<{width}}{'times':>10}{'':>10}{'mean':>10}{'worst':>9}"]
    groups = left_out_errors()
    for name, errors in groups.items():
        mean, worst = statistics.fmean(errors), max(errors)
        lines.append(f"  {name:<{width - 2}}{len(errors):>10}{'':>10}{mean:>10.1%}{worst:>9.1%}")
    mean = statistics.fmean(statistics.fmean(errors) for errors in groups.values())
    lines.append(f"{'  mean of the groups':<{width}}{'':>20}{mean:>10.1%}")
    lines += _sources({row.source for row in rows})
    return "\n".join(lines)


def _sources(sources: set[str]) -> list[str]:
    """Return the files that times are from, one below its folder, and the first of the commit."""
    lines = ["", "sources (--json has them in full):"]
    for source in sorted(sources):
        path, _, commit = source.partition("@")
        if len(source) > WIDTH - 2:
            folder, _, file = path.rpartition("/")
            name = f"{file}@{commit[:12]}" if commit else file
            repository, _, inner = folder.rpartition(":")
            is_long = len(folder) > WIDTH - 3
            above = [f"  {repository}:", f"    {inner}/"] if is_long else [f"  {folder}/"]
            lines += [*above, f"    {name}"]
        else:
            lines.append(f"  {source}")
    return lines


def _micros(seconds: float) -> str:
    """Return microseconds, without decimals where there is no room for them."""
    return f"{seconds * 1e6:.2f}" if seconds < 1 else f"{seconds * 1e6:.0f}"


def _means(name: str, rows: list[Known], width: int) -> str:
    def mean(errors: list[float | None]) -> str:
        known = [abs(error) for error in errors if error is not None]
        return f"{statistics.fmean(known):.1%}" if known else "-"

    cells = (
        mean([row.error for row in rows]),
        mean([row.left_out_error for row in rows]),
        mean([row.roofline_error for row in rows]),
    )
    return f"{name:<{width}}{len(rows):>10}{'':>10}{cells[0]:>10}{cells[1]:>9}{cells[2]:>9}"


def _table(rows: list[Comparison]) -> str:
    head = f"{'time in us':<32}{'published':>13}{'reproduced':>13}{'predicted':>13}{'error':>9}"
    lines = [head]
    for row in rows:
        what = row.measurement
        shown = "-" if row.modelled_s is None else f"{row.modelled_s * 1e6:.2f}"
        columns = (shown, "") if row.is_calibration else ("", shown)
        error = "-" if row.error is None else f"{row.error:+.1%}"
        lines.append(
            f"{cell(what.name, 32)}{what.seconds * 1e6:>13.2f}{columns[0]:>13}{columns[1]:>13}"
            f"{error:>9}"
        )
    for is_calibration, name in ((True, "reproduced"), (False, "predicted")):
        of_kind = [row for row in rows if row.is_calibration is is_calibration]
        if of_kind:
            lines += ["", *_summary(name, of_kind)]
    lines += _sources({row.measurement.source for row in rows})
    return "\n".join(lines)


def _claims_table(claims: list[Claim]) -> str:
    lines = ["", f"{'claimed in an earlier write-up':<34}{'claimed':>22}{'modelled':>12}"]
    lines += [f"{c.what:<34}{c.claimed:>22}{c.modelled:>12}" for c in claims]
    lines.append("claimed gains of optimizations: galaxy-mpi compare --timing-only")
    return "\n".join(lines)


def _summary(name: str, rows: list[Comparison]) -> list[str]:
    known = [(abs(row.error), row) for row in rows if row.error is not None]
    lines = [f"{name}: {len(known)} of {len(rows)} published times are modelled"]
    for kind, kinds in (("ops", ("layer", "tail")), ("end to end", ("decode", "prefill"))):
        errors = [(error, row) for error, row in known if row.measurement.kind in kinds]
        if errors:
            mean = statistics.fmean(error for error, _ in errors)
            worst, row = max(errors, key=lambda pair: pair[0])
            lines.append(f"{name}, {kind}: MAPE {mean:.1%}, worst {worst:.1%} "
                         f"({row.measurement.name})")  # fmt: skip
    return lines


def _to_json(rows: list[Comparison]) -> list[dict[str, object]]:
    return [
        {
            "name": row.measurement.name,
            "kind": row.measurement.kind,
            "published_s": row.measurement.seconds,
            "modelled_s": row.modelled_s,
            "error": row.error,
            "set": "reproduced" if row.is_calibration else "predicted",
            "source": row.measurement.source,
        }
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
