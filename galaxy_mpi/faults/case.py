"""One fault in one run, and what must become of it."""

from dataclasses import dataclass, field

__all__ = ["BEGAN_VARIABLE", "MODEL_VARIABLE", "Case", "Layout"]

BEGAN_VARIABLE = "GALAXY_MPI_FAULT_BEGAN"
"""Names the file to which the time of the fault is written."""

MODEL_VARIABLE = "GALAXY_MPI_FAULT_MODEL"
"""Names the folder of the run's model, for faults of its files."""


@dataclass(frozen=True)
class Layout:
    """How the chips of a run are spread over ranks and joined."""

    name: str
    n_ranks: int
    options: tuple[str, ...]
    """Of the decode command."""
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Placeholders in texts: ``{work}`` is the run's folder, ``{out}`` that of its output.
    """

    layout: Layout
    fault: str
    """Of `galaxy_mpi.faults.rank`, or what is wrong with the surroundings."""
    moment: str = ""
    victim: str = "all"
    """A rank's number, or all."""
    within_s: float = 5.0
    """Longest time from the fault until everything is gone."""
    codes: tuple[int, ...] = ()
    """Exit codes that may be; none: any but 0."""
    said: tuple[str, ...] = ()
    """Patterns of which each is in a line of standard error (or of output, for codes of 0)."""
    options: tuple[str, ...] = ()
    """Arguments of the decode command, after the layout's."""
    around_rank: tuple[str, ...] = ()
    """Words before python on each rank, such as a shell that closes something."""
    around_all: str = ""
    """A shell's command line with ``"$@"`` for mpirun and its arguments; empty: no shell."""
    environ: dict[str, str | None] = field(default_factory=dict)
    """Set for the run; None takes a variable away."""
    prepare: str = ""
    """A shell's command line before the run."""
    finish: str = ""
    """A shell's command line after the run."""
    needs_root: bool = False
    has_report: bool | None = None
    """Whether there is a report with the right tokens; None: whole or none."""
    may_trace: bool = False
    """Whether a traceback is what is wanted."""
    is_quick: bool = False
    """Whether it is in the fast part."""

    @property
    def name(self) -> str:
        """What it is called in tables and tests."""
        where = f"{self.moment}:" if self.moment else ""
        whom = "" if self.victim == "all" else f"rank {self.victim}:"
        return f"{self.layout.name}:{where}{whom}{self.fault}"
