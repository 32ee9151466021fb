"""One kind of input: what is damaged, how, and what reads it then."""

import random
from collections.abc import Callable
from dataclasses import dataclass

Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Format:
    """One kind of input.

    Parameters
    ----------
    good : bytes
        That is read without complaint.
    damage : callable
        Makes another one of it.
    play : callable
        Reads it; raises UserError if it cannot.
    limit_s : float
        Seconds of the processor that this may take: a busy host changes nothing.
    """

    good: bytes
    damage: Damage
    play: Callable[[bytes], None]
    limit_s: float = 10.0
