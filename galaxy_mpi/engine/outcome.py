"""What each rank contributes to the report of a run."""

from typing import TYPE_CHECKING, NamedTuple

from galaxy_mpi.engine.memory import RankMemory
from galaxy_mpi.engine.mode import ModeTotals

if TYPE_CHECKING:  # few runs need them
    from galaxy_mpi.engine.host_trace import HostSpans
    from galaxy_mpi.engine.probabilities import Sums

__all__ = ["RankOutcome"]


class RankOutcome(NamedTuple):
    """What one rank knows at the end of a run."""

    totals: dict[str, ModeTotals]
    """By name of the mode."""
    memory: list[RankMemory]
    """Of each of its chips."""
    spans: "HostSpans | None"
    sums: "list[Sums]"
