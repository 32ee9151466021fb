"""Every published time that constants are fitted to, with a function that models it.

A *datum* belongs to groups (machine, length, model, system, kind); a fit that leaves out a group
predicts its times.
"""

from functools import cache

from galaxy_mpi.studies.datum import GROUPS, Datum, Machines
from galaxy_mpi.studies.published_galaxy import galaxy_times, link_times, prefill_ops
from galaxy_mpi.studies.published_generic import generic_times
from galaxy_mpi.studies.published_models import model_times

__all__ = ["GROUPS", "Datum", "Machines", "published_times"]


@cache
def published_times() -> tuple[Datum, ...]:
    """Return all published times of the package."""
    return (*galaxy_times(), *generic_times(), *prefill_ops(), *link_times(), *model_times())
