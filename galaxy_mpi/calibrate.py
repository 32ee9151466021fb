"""Fit the constants of the device model to published times: ``galaxy-mpi calibrate``.

It prints each constant with its range and the times that determine it, writes the package's machine
profiles, and writes the errors of fits that leave out a group of times. ``--check`` writes nothing
and fails if the files differ from the fit.
"""

import argparse
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import write_text
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.output import cell
from galaxy_mpi.studies.datum import GROUPS, Datum
from galaxy_mpi.studies.fitting import PARAMETERS, Fit, Parameter, fit, left_out, predicted
from galaxy_mpi.studies.published_times import published_times
from galaxy_mpi.timing.machine_file import profile_path
from galaxy_mpi.timing.published import LEFT_OUT

__all__ = ["build_parser", "compare", "main"]

_DIGITS = 3
"""Significant digits of a constant: more than the times determine."""

_Row = tuple[Parameter, str, tuple[str, str], str]
"""Value, range and determining times of a constant, as written to the file."""


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.calibrate", "Fit the constants of the device model to published times."
    )
    add = parser.add_argument
    add(
        "--check",
        action="store_true",
        help="compare the fit with the profiles instead of writing them",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, print, write or compare."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        def play() -> None:
            data = published_times()
            found = _rounded(fit(data))
            print(_table(found, data))
            texts = {path: _changed(path, found, data) for path in _paths()}
            if arguments.check:
                for path, text in texts.items():
                    compare(path, text)
            else:
                for path, text in texts.items():
                    write_text(path, text)
                    print(f"wrote {path.name}")
            errors = _errors(found, data)
            if not arguments.check:
                write_text(LEFT_OUT, errors)
            elif errors != LEFT_OUT.read_text("utf-8"):
                raise ConfigError(
                    f"{LEFT_OUT.name} differs from the fits that leave groups out; "
                    f"run python -m galaxy_mpi.calibrate"
                )

        return play

    return run_alone(build_parser(), argv, prepare)


def _rounded(found: Fit) -> Fit:
    """Return the constants rounded as in the files; errors are computed from these."""
    import numpy as np

    return replace(found, values=np.array([float(f"{v:.{_DIGITS}g}") for v in found.values]))


def _paths() -> list[Path]:
    names = dict.fromkeys(name for p in PARAMETERS for name in p.profiles)
    return [profile_path(name) for name in names]


def _table(found: Fit, data: Sequence[Datum]) -> str:
    width = 36
    lines = [
        f"{'constant, and what determines it':<{width}}"
        f"{'value':>11}{'low':>10}{'high':>10}{'prior':>11}"
    ]
    for parameter, value, (low, high), by in _rows(found, data):
        lines.append(
            f"{cell(parameter.name, width)}{value:>11}{low:>10}{high:>10}{parameter.prior:>11.4g}"
        )
        lines += textwrap.wrap(by, 80, initial_indent="    ", subsequent_indent="    ")
    errors = [
        abs(s / d.seconds - 1) for s, d in zip(predicted(found.values, data), data, strict=True)
    ]
    lines += ["", f"in sample, {len(data)} times: mean error {statistics.fmean(errors):.1%}"]
    return "\n".join(lines)


def _rows(found: Fit, data: Sequence[Datum]) -> list[_Row]:
    """Yield parameter, value, range and determining times, as in the files."""
    import numpy as np

    spread, rows = np.exp(found.sigma()), list[_Row]()
    for parameter, value, factor, numbers in zip(
        PARAMETERS, found.values, spread, found.deciding(), strict=True
    ):
        names = [data[number].name for number in numbers]
        alone = " alone" if len(names) == 1 else ""
        by = (", ".join(names) + alone) if names else "its prior"
        rows.append(
            (
                parameter,
                f"{value:.{_DIGITS}g}",
                (f"{value / factor:.2g}", f"{value * factor:.2g}"),
                by,
            )
        )
    return rows


def _changed(path: Path, found: Fit, data: Sequence[Datum]) -> str:
    """Return the text of a profile with the constants of the fit."""
    text = path.read_text("utf-8")
    for parameter, value, (low, high), by in _rows(found, data):
        if path.stem not in parameter.profiles:
            continue
        number, least, most = (_yaml(n) for n in (value, low, high))
        pattern = (
            rf"(  {parameter.key}:\n)    value: [^\n]*\n    unit: ([^\n]*)\n"
            r"(?:    range: [^\n]*\n    fitted: [^\n]*\n)?"
        )
        new = (
            rf"\g<1>    value: {number}\n    unit: \g<2>\n"
            rf'    range: [{least}, {most}]\n    fitted: "{by}"\n'
        )
        text, n = re.subn(pattern, new, text)
        assert n == 1, f"{path.name} has no {parameter.key}"
    return text


def _yaml(number: str) -> str:
    """Return a number that YAML reads as a float: with a point, and a sign in the exponent."""
    mantissa, _, exponent = f"{float(number):.4e}".partition("e")
    return f"{float(mantissa)}e{int(exponent):+d}"


def compare(path: Path, text: str) -> None:
    """Raise if the constants of a profile differ from the fit."""
    there, found = (
        re.findall(r"  (\w+):\n    value: (\S+)", t) for t in (path.read_text("utf-8"), text)
    )
    for (key, value), (_, fitted) in zip(there, found, strict=True):
        if value != fitted:
            raise ConfigError(
                f"{path.name}: {key} is {value}, the fit gives {fitted}; "
                f"run python -m galaxy_mpi.calibrate"
            )


def _errors(found: Fit, data: Sequence[Datum]) -> str:
    """Return the content of the file of errors: in sample, and of each left-out group."""

    def row(left: str, group: str, number: int, seconds: float) -> dict[str, object]:
        datum = data[number]
        return {
            "left_out": left,
            "group": group,
            "time": datum.name,
            **{key: datum.groups[key] for key in ("kind", "system", "machine")},
            "mesh": datum.mesh,
            "tokens": int(datum.groups["length"]),
            **_sizes(datum),
            "error": round(seconds / datum.seconds - 1, 3),
        }

    rows = [row("", "", n, s) for n, s in enumerate(predicted(found.values, data).tolist())]
    for kind, name, seconds in left_out(data, found, GROUPS):
        rows += [row(kind, name, number, s) for number, s in seconds.items()]
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def _sizes(datum: Datum) -> dict[str, int | bool]:
    """Return a key: equal for estimates of the same model with the same settings."""
    model = PRESETS.get(datum.groups["model"])
    if model is None:  # links
        return {"dim": 0, "hidden_dim": 0, "n_layers": 0, "changed": False}
    return {
        "dim": model.dim,
        "hidden_dim": model.hidden_dim,
        "n_layers": model.n_layers,
        "changed": datum.is_changed,
    }


if __name__ == "__main__":
    sys.exit(main())
