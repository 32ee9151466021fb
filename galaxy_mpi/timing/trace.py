"""Time as a trace that ui.perfetto.dev opens: a process a chip, a track an engine.

Trace event format, JSON, times in microseconds. Schema version 2; ``otherData`` has
``schema_version`` and ``clock`` (``device`` or ``host``). A process is a chip, its number the rank.

Device time has the tracks ``compute`` (ops), ``prefetch`` (reads of weights), ``column links`` and
``row links``, and

* ``X`` events: ops (``args``: worker cores that an op occupies), reads of weights, and collectives
  from a chip's entry until its result is there;
* ``s`` and ``f`` events: a flow from each member of a collective to the next one of its ring;
* ``C`` events: ``circular buffer`` in bytes, from when a read begins until the weight has been
  consumed, and ``column link``, ``row link`` in bytes/s, the mean of a collective's busiest link.

Host time has the tracks ``steps``, ``collectives`` and ``prefetch`` with ``X`` events, the same
flows between collectives, and the counter ``circular buffer`` in unpacked bytes; links it has none.

Version 1 had no counters and no host time.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["COMPUTE", "PREFETCH", "SCHEMA_VERSION", "Trace"]

SCHEMA_VERSION = 2

COMPUTE, PREFETCH = "compute", "prefetch"

DEVICE_TRACKS = (COMPUTE, PREFETCH, *(f"{axis.group_name} links" for axis in Axis))

Seconds = NDArray[np.float64]


class Trace:
    """Collects what the clocks do.

    Parameters
    ----------
    mesh : Mesh
    clock : str
        ``device`` or ``host``.
    tracks : sequence of str
        Of every chip.

    Attributes
    ----------
    origin_s : float
        Added to all times: when the pass that is being traced began.
    """

    def __init__(
        self, mesh: Mesh, clock: str = "device", tracks: Sequence[str] = DEVICE_TRACKS
    ) -> None:
        self._mesh, self._clock, self._tracks = mesh, clock, list(tracks)
        self._events: list[dict[str, Any]] = []
        self._changes: dict[int, list[tuple[float, float]]] = {}
        self._n_flows = 0
        self.origin_s = 0.0
        for rank in range(mesh.n_chips):
            row, col = mesh.coord(rank)
            self._describe(rank, "process_name", f"chip ({row}, {col})")
            for number, track in enumerate(self._tracks):
                self._describe(rank, "thread_name", track, number)

    def add(self, track: str, name: str, begin: Seconds, end: Seconds, **args: float) -> None:
        """Note that every chip was busy with ``name``; arrays of shape (R, C)."""
        spans = zip(begin.reshape(-1).tolist(), end.reshape(-1).tolist(), strict=True)
        for rank, (start_s, stop_s) in enumerate(spans):
            self.span(rank, track, name, start_s, stop_s, **args)

    def span(
        self, rank: int, track: str, name: str, start_s: float, stop_s: float, **args: float
    ) -> None:
        """Note that one chip was busy; nothing if it took no time."""
        if stop_s > start_s:
            more = {"args": args} if args else {}
            number, us = self._tracks.index(track), (stop_s - start_s) * 1e6
            self._add("X", name, rank, start_s, tid=number, dur=us, **more)

    def spans(self, track: str) -> dict[int, list[dict[str, Any]]]:
        """Return the spans of a track in order, as events, by rank."""
        number = self._tracks.index(track)
        found: dict[int, list[dict[str, Any]]] = {r: [] for r in range(self._mesh.n_chips)}
        for event in self._events:
            if event["ph"] == "X" and event["tid"] == number:
                found[event["pid"]].append(event)
        return {rank: sorted(events, key=lambda e: e["ts"]) for rank, events in found.items()}

    def collective(
        self, name: str, axis: Axis, begin: Seconds, end: Seconds, n_bytes: float
    ) -> None:
        """Note a collective on the links, with a flow from each member to the next."""
        track = f"{axis.group_name} links"
        self.add(track, name, begin, end)
        begins, ends = begin.reshape(-1).tolist(), end.reshape(-1).tolist()
        for rank, (start_s, stop_s) in enumerate(zip(begins, ends, strict=True)):
            if n_bytes and stop_s > start_s:
                rate = n_bytes / (stop_s - start_s)
                for at_s, value in ((start_s, rate), (stop_s, 0.0)):
                    self._add("C", f"{axis.group_name} link", rank, at_s, args={"bytes/s": value})
            self.flow(name, track, rank, axis, start_s, ends)

    def flow(
        self, name: str, track: str, rank: int, axis: Axis, start_s: float, ends: Sequence[float]
    ) -> None:
        """Note a message from a chip to the next one of its ring, given all chips' ends."""
        group = self._mesh.group(rank, axis)
        following = group[(group.index(rank) + 1) % len(group)]
        if following == rank:
            return
        self._n_flows += 1
        common = {"cat": "message", "id": self._n_flows, "tid": self._tracks.index(track)}
        self._add("s", name, rank, start_s, **common)
        self._add("f", name, following, ends[following], bp="e", **common)

    def fill(self, rank: int, at_s: float, n_bytes: float) -> None:
        """Note that the circular buffer of a chip holds so many bytes more from then on."""
        self._changes.setdefault(rank, []).append((at_s + self.origin_s, n_bytes))

    def fills(self, at: Seconds, n_bytes: float) -> None:
        """Note that the circular buffer of every chip holds so many bytes more from then on."""
        for rank, at_s in enumerate(at.reshape(-1).tolist()):
            self.fill(rank, at_s, n_bytes)

    def to_json(self) -> str:
        """Return the file's text."""
        content = {
            "traceEvents": [*self._events, *self._fill_counters()],
            "displayTimeUnit": "ns",
            "otherData": {"schema_version": SCHEMA_VERSION, "clock": self._clock},
        }
        return json.dumps(content) + "\n"

    def _fill_counters(self) -> list[dict[str, Any]]:
        """Return the circular buffers' bytes after each change: what leaves goes first."""
        events = []
        for rank, changes in self._changes.items():
            held = 0.0
            for at_s, n_bytes in sorted(changes):
                held += n_bytes
                event = {"ph": "C", "name": "circular buffer", "pid": rank, "ts": at_s * 1e6}
                events.append(event | {"args": {"bytes": held}})
        return events

    def _add(self, phase: str, name: str, rank: int, at_s: float, **more: Any) -> None:
        event = {"ph": phase, "name": name, "pid": rank, "ts": (self.origin_s + at_s) * 1e6}
        self._events.append(event | more)

    def _describe(self, rank: int, what: str, name: str, track: int = 0) -> None:
        self._events.append(
            {"ph": "M", "name": what, "pid": rank, "tid": track, "args": {"name": name}}
        )
