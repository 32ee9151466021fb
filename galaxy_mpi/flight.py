"""Show where ranks diverged: ``python -m galaxy_mpi.flight FOLDER``, after ``--flight FOLDER``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.flight_recorder import Flight, read_flights

__all__ = ["build_parser", "divergence", "main", "to_text"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.flight",
        "Merge the event logs that the ranks of a failed run left, and show where they diverged.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="the folder given to galaxy-mpi decode --flight"
    )
    parser.add_argument("--last", type=int, default=5, metavar="N", help="exchanges to show")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if arguments.folder is None:
            raise ConfigError("name the folder given to galaxy-mpi decode --flight")
        flights = read_flights(arguments.folder)
        return lambda: print(to_text(flights, max(1, arguments.last)))

    return run_alone(build_parser(), argv, prepare)


def divergence(flights: Sequence[Flight]) -> int | None:
    """Return the number of the first exchange that differs between ranks.

    Only ranks that reached an exchange, and still remember it, are compared.
    """
    known = [_crossings(flight) for flight in flights]
    for number in sorted(set().union(*known)):
        if len({of_rank[number] for of_rank in known if number in of_rank}) > 1:
            return number
    return None


def to_text(flights: Sequence[Flight], n_last: int) -> str:
    """Return each rank's last event, and the exchanges around the point of divergence."""
    ends = [flight.events[-1].at_s for flight in flights if flight.events]
    end_s = max(ends, default=0.0)
    lines = [f"{'rank':>5}  {'host':<12}{'exchanges':>9}{'s ago':>9}  last event"]
    for flight in flights:
        if not flight.events:
            lines.append(f"{flight.rank:>5}  {flight.host[:11]:<12}{0:>9}{'':>9}  none")
            continue
        last = flight.events[-1]
        lines.append(
            f"{flight.rank:>5}  {flight.host[:11]:<12}{last.crossing:>9}{end_s - last.at_s:>9.3f}"
            f"  {last.text}"
        )
    known = {flight.rank: _crossings(flight) for flight in flights}
    reached = {rank: max(of_rank, default=0) for rank, of_rank in known.items()}
    behind = [rank for rank, n in reached.items() if n == min(reached.values())]
    parted = divergence(flights)
    lines.append("")
    if parted is not None:
        lines.append(f"ranks diverge at exchange {parted}: their labels differ")
    elif len(behind) < len(reached):
        lines.append(
            f"all labels agree; {_ranks(behind)} reached only exchange "
            f"{min(reached.values())}, others {max(reached.values())}"
        )
    else:
        lines.append(f"all ranks reached exchange {max(reached.values())} with the same labels")
    last_number = parted + 1 if parted is not None else max(reached.values())
    for number in range(max(1, last_number - n_last + 1), last_number + 1):
        by_text: dict[str, list[int]] = {}
        for rank, of_rank in known.items():
            text = of_rank.get(number, "not reached" if reached[rank] < number else "overwritten")
            by_text.setdefault(text, []).append(rank)
        told = [f"{text} ({_ranks(ranks)})" for text, ranks in by_text.items()]
        lines.append(f"{number:>7}  {' | '.join(told)}")
    return "\n".join(lines)


def _crossings(flight: Flight) -> dict[int, str]:
    """Return the label of each exchange: the text of the first event with its number."""
    found: dict[int, str] = {}
    before = flight.events[0].crossing if flight.events else 0
    for event in flight.events:
        if event.crossing > before:
            found[event.crossing] = event.text
        before = max(before, event.crossing)
    return found


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) > 6:
        return f"{len(ranks)} ranks"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


if __name__ == "__main__":
    sys.exit(main())
