"""Plays inputs against a format, and says which of them escaped."""

import random
import signal
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from galaxy_mpi.errors import UserError
from tests.fuzz.format import Format


class TooSlowError(BaseException):
    """An input took longer than it may."""


@dataclass
class Outcome:
    """What became of the inputs."""

    n_accepted: int = 0
    n_refused: int = 0
    escaped: list[tuple[bytes, str]] = field(default_factory=list)
    """Inputs that ended in anything else, and in what."""

    @property
    def kinds(self) -> Counter[str]:
        """How many escaped, by their last line."""
        return Counter(trace.strip().splitlines()[-1][:160] for _, trace in self.escaped)


def mutations(what: Format, n: int, seed: int) -> Iterator[bytes]:
    """Yield damaged inputs; the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(n):
        yield what.damage(what.good, chance)


def play(what: Format, inputs: Iterable[bytes]) -> Outcome:
    """Play inputs, one after the other."""

    def too_slow(_: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"longer than {what.limit_s} s")

    outcome, before = Outcome(), signal.signal(signal.SIGPROF, too_slow)
    try:
        for content in inputs:
            signal.setitimer(signal.ITIMER_PROF, what.limit_s)
            try:
                what.play(content)
                outcome.n_accepted += 1
            except UserError as error:
                if "\n" in str(error):
                    outcome.escaped.append((content, f"not one line: {error!r}"))
                outcome.n_refused += 1
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException:  # a library's panic is no Exception
                outcome.escaped.append((content, traceback.format_exc()))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.signal(signal.SIGPROF, before)
    return outcome
