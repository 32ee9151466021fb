"""All cases: fault x moment x rank x layout, and surroundings in which something is wrong."""

from collections.abc import Iterator

from galaxy_mpi.faults.case import Case, Layout
from galaxy_mpi.faults.surroundings import streams, surroundings

__all__ = ["LAYOUTS", "cases"]

MEMORY = Layout("memory", 2, ("--mesh", "1x2", "--transport", "shared"))
MESSAGES = Layout("messages", 2, ("--mesh", "1x2", "--transport", "mpi"))
CHIPS = Layout("chips", 2, ("--mesh", "2x2", "--chips-per-rank", "2"))
HOSTS = Layout("hosts", 4, ("--mesh", "2x2"), {"GALAXY_MPI_TEST_HOSTS": "2"})

ALONE = Layout("alone", 0, ("--mesh", "1x2", "--chips-per-rank", "2"))

LAYOUTS = (MEMORY, MESSAGES, CHIPS, HOSTS)
"""Ranks that share memory, that send messages, that play several chips, on two pretended hosts."""

_PROGRAM = ("prefill", "step")
_WAITS = {"prefill": "prefill after decode step 0", "step": "decode step 2"}


def cases() -> list[Case]:
    """Return all cases, each once."""
    return [
        *_signals(),
        *_launcher(),
        *_errors(),
        *_collectives(),
        *_files(),
        *surroundings(MEMORY),
        *streams(ALONE),
    ]


def _signals() -> Iterator[Case]:
    for layout in LAYOUTS:
        last = str(layout.n_ranks - 1)
        for victim in ("0", last):
            for moment in (
                "start",
                "set-up",
                "handover",
                "load",
                "prefill",
                "step",
                "report",
                "end",
            ):
                quick = (layout, moment) in (
                    (MEMORY, "step"),
                    (MEMORY, "load"),
                    (MESSAGES, "prefill"),
                    (CHIPS, "set-up"),
                )
                yield Case(
                    layout,
                    "kill",
                    moment,
                    victim,
                    said=(rf"process rank {victim} ", r"signal 9 \(Killed\)"),
                    is_quick=quick and victim == last,
                )
                yield Case(
                    layout,
                    "stop",
                    moment,
                    victim,
                    within_s=20.0,
                    said=tuple(_said_of_stop(moment, victim, layout)),
                    is_quick=quick and victim == last,
                )
    for layout in (MEMORY, MESSAGES):
        # Open MPI takes SIGHUP for itself; that of a terminal goes to the launcher too.
        yield Case(layout, "hup", "step", "1", codes=(0,), has_report=True)
        for signal, number in (("term", 15), ("segv", 11)):
            for moment in ("load", "step"):
                yield Case(
                    layout,
                    signal,
                    moment,
                    "1",
                    said=("process rank 1 ", rf"signal {number} "),
                    is_quick=layout is MEMORY and moment == "step",
                )
        yield Case(
            layout, "int", "step", "1", codes=(1,), said=("KeyboardInterrupt",), may_trace=True
        )
        yield Case(layout, "quit", "step", "1", within_s=20.0)
        yield Case(layout, "clock", "step", "1", codes=(0,), has_report=True)


def _said_of_stop(moment: str, victim: str, layout: Layout) -> Iterator[str]:
    if moment in _PROGRAM:
        yield rf"galaxy_mpi: {_WAITS[moment]}: .* waited \d+ s for .*within a (row|column)"
        yield r"(rank|chip) .*is stopped|chips .*are stopped" if layout.n_ranks == 2 else "waited"
    elif moment in ("load", "report") and layout.n_ranks == 2:
        yield r"galaxy_mpi: .*chip.* waited \d+ s in .*: chip.* (is|are) stopped"
    elif moment in ("start", "set-up", "handover"):
        yield rf"galaxy_mpi: rank {victim} \(process \d+\) on .* has been stopped for 5 s"
    elif moment == "end":
        yield "Timeout|(is|are) stopped|waited"


def _launcher() -> Iterator[Case]:
    for layout in LAYOUTS:
        for signal in ("kill", "term", "int", "hup"):
            for moment in ("start", "set-up", "load", "prefill", "step", "report", "end"):
                if signal in ("int", "hup") and moment not in ("load", "step"):
                    continue
                yield Case(
                    layout,
                    f"launcher-{signal}",
                    moment,
                    "1",
                    within_s=8.0,
                    is_quick=(layout, moment) == (MEMORY, "step"),
                )


def _errors() -> Iterator[Case]:
    said = {
        "raise": "RuntimeError: asked to fail",
        "interrupt": "KeyboardInterrupt: asked to fail",
        "exit": "SystemExit: asked to fail",
        "panic": "BaseException: asked to fail",
    }
    for layout in LAYOUTS:
        for moment in ("start", "set-up", "handover", "load", "prefill", "step", "report"):
            yield Case(
                layout,
                "raise",
                moment,
                str(layout.n_ranks - 1),
                said=(said["raise"],),
                may_trace=True,
                is_quick=layout is HOSTS and moment in ("handover", "step"),
            )
    for layout in (MEMORY, HOSTS):
        yield Case(
            layout,
            "memory",
            "step",
            "1",
            codes=(1,),
            said=(r"^galaxy_mpi: rank 1: out of memory: asked to fail",),
        )
        for fault in ("interrupt", "exit", "panic"):
            quick = layout is MEMORY and fault == "panic"
            yield Case(
                layout,
                fault,
                "step",
                "1",
                codes=(1,),
                said=(r"galaxy_mpi: rank 1 failed:", said[fault]),
                may_trace=True,
                is_quick=quick,
            )
        yield Case(
            layout,
            "user",
            "step",
            "1",
            codes=(2,),
            said=("^galaxy_mpi: asked to fail$",),
            is_quick=True,
        )
        for fault in ("thread", "prefetcher", "codec", "watchdog"):
            yield Case(
                layout,
                fault,
                "step",
                "1",
                codes=(1,),
                said=(said["raise"],),
                may_trace=True,
                is_quick=layout is MEMORY,
            )


def _collectives() -> Iterator[Case]:
    for layout in LAYOUTS:
        for moment in _PROGRAM:
            about = _WAITS[moment]
            for fault in ("omit", "twice"):
                yield Case(
                    layout,
                    fault,
                    moment,
                    "1",
                    within_s=20.0,
                    said=(rf"{about}: .*(chip|rank)|token \d+ is not in the vocabulary",),
                    is_quick=layout is MESSAGES and moment == "step",
                )
            yield Case(
                layout,
                "sleep",
                moment,
                "1",
                within_s=20.0,
                said=(rf"galaxy_mpi: {about}: .* waited \d+ s for .*; did that rank end or stop",),
                is_quick=layout is CHIPS and moment == "step",
            )
    yield Case(
        MEMORY, "spin", "step", "1", within_s=20.0, said=(r"decode step 2: .* waited \d+ s",)
    )


def _files() -> Iterator[Case]:
    for layout in (MEMORY, MESSAGES):
        yield Case(
            layout,
            "truncate",
            "step",
            "1",
            said=(r"signal 7 \(Bus error\)|truncated",),
            is_quick=True,
        )
        yield Case(
            layout, "truncate", "load", "1", may_trace=False, said=("signal 7|galaxy_mpi: ",)
        )
        yield Case(layout, "delete", "step", "1", codes=(0,), has_report=True)
        yield Case(layout, "replace", "step", "1", codes=(0,), has_report=True)
        for fault in ("delete", "replace"):
            yield Case(layout, fault, "start", "0", codes=(2,), said=("^galaxy_mpi: ",))
        yield Case(layout, "descriptors", "step", "1", codes=(0,), has_report=True)
        yield Case(
            layout,
            "descriptors",
            "set-up",
            "1",
            said=("descriptor|files|ulimit|[Ee]rror",),
            may_trace=True,
        )
        yield Case(layout, "no-memory", "load", "1", said=("[Mm]emory",), may_trace=True)
        yield Case(layout, "no-memory", "set-up", "1", said=("memory|Memory",), may_trace=True)
        yield Case(
            layout, "none", "step", "1", within_s=60.0, codes=(0,), has_report=True, is_quick=True
        )
