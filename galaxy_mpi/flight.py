"""Say where ranks parted: ``python -m galaxy_mpi.flight FOLDER``, of a run with ``--flight``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.command import ArgumentParser, run_alone
from galaxy_mpi.flight_recorder import Flight, read_flights

__all__ = ["build_parser", "divergence", "main", "to_text"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.flight",
        "Merge what the ranks of a run that did not end well have left, and say where they parted.",
    )
    parser.add_argument("folder", type=Path, help="as given to galaxy_mpi.decode --flight")
    parser.add_argument("--last", type=int, default=5, metavar="N", help="crossings to show")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        flights = read_flights(arguments.folder)
        return lambda: print(to_text(flights, max(1, arguments.last)))

    return run_alone(build_parser(), argv, prepare)


def divergence(flights: Sequence[Flight]) -> int | None:
    """Return the number of the first crossing that is not the same on all ranks that know it.

    A crossing that some have not reached is the same as far as anybody knows.
    """
    known = [_crossings(flight) for flight in flights]
    for number in sorted(set().union(*known)):
        if len({of_rank[number] for of_rank in known if number in of_rank}) > 1:
            return number
    return None


def to_text(flights: Sequence[Flight], n_last: int) -> str:
    """Return who did what last, and the crossings around the place where ranks parted."""
    ends = [flight.events[-1].at_s for flight in flights if flight.events]
    end_s = max(ends, default=0.0)
    lines = [f"{'rank':>5}  {'host':<12}{'crossings':>9}{'s before':>9}  last event"]
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
        lines.append(f"ranks part at crossing {parted}: they cross with different things")
    elif len(behind) < len(reached):
        lines.append(
            f"no rank crosses with anything else; {_ranks(behind)} came only to crossing "
            f"{min(reached.values())}, others to {max(reached.values())}"
        )
    else:
        lines.append(f"all ranks came to crossing {max(reached.values())}, with the same things")
    last_number = parted + 1 if parted is not None else max(reached.values())
    for number in range(max(1, last_number - n_last + 1), last_number + 1):
        by_text: dict[str, list[int]] = {}
        for rank, of_rank in known.items():
            text = of_rank.get(number, "has not come" if reached[rank] < number else "forgotten")
            by_text.setdefault(text, []).append(rank)
        told = [f"{text} ({_ranks(ranks)})" for text, ranks in by_text.items()]
        lines.append(f"{number:>7}  {' | '.join(told)}")
    return "\n".join(lines)


def _crossings(flight: Flight) -> dict[int, str]:
    """Return the texts of crossings by their number: the event that first has the number."""
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
