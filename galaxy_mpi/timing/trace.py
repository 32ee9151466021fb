"""Traces for ui.perfetto.dev: one process per chip, one track per engine.

Trace event format, JSON, times in microseconds; gzip if the file's name ends in ``.gz``. Schema
version 3; ``otherData`` has ``schema_version`` and ``clock`` (``device`` or ``host``). A process is
a chip, its number the rank.

Both clocks have the tracks

* ``program``: ``X`` events within each other: ``run``, passes and steps (``prefill 1``,
  ``decode 1``), layers (``layer 0``, ``head``), and ops by their names in the program;
* ``compute``: what a chip works on. Device time: kernels and collectives, with ``op``, ``layer``,
  ``cores``, ``bound`` (what it waits for), ``dram_bytes``, ``flops``, and of collectives ``wire``,
  ``format`` and ``link_bytes``. Host time: ops, without their waiting;
* ``waiting``: for another chip (``for``), in a collective, or for a weight;
* ``prefetch``: reads of weights, by name, with ``bytes``, ``format``, ``shape``;

``s`` and ``f`` events of category ``wait``: a flow from an op that waits to the op that it waits
for; and the counter ``circular buffer`` (``C`` events) in bytes, from when a read begins until the
weight has been consumed.

Device time has also the tracks ``column links`` and ``row links``: collectives from a chip's entry
until its result is there, flows of category ``message`` from each member to the next one of its
ring, and the counters ``column link`` and ``row link`` in bytes/s, the mean of a collective's
busiest link.

Version 1 had no counters and no host time; version 2 no ``program`` and no ``waiting``.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.op import HEAD

__all__ = ["COMPUTE", "PREFETCH", "PROGRAM", "SCHEMA_VERSION", "WAITING", "Trace", "layer_name"]

SCHEMA_VERSION = 3

PROGRAM, COMPUTE, WAITING, PREFETCH = "program", "compute", "waiting", "prefetch"

_EVERYWHERE = (PROGRAM, COMPUTE, WAITING, PREFETCH)

DEVICE_TRACKS = (*_EVERYWHERE, *(f"{axis.group_name} links" for axis in Axis))

HOST_TRACKS = _EVERYWHERE

Seconds = NDArray[np.float64]


def layer_name(layer: int) -> str:
    """Return what traces call a layer; ``head``: the ops before and after all layers."""
    return "head" if layer == HEAD else f"layer {layer}"


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
    title : str
        Name of that pass or step.
    """

    def __init__(
        self, mesh: Mesh, clock: str = "device", tracks: Sequence[str] = DEVICE_TRACKS
    ) -> None:
        self._mesh, self._clock, self._tracks = mesh, clock, list(tracks)
        self._events: list[JsonObject] = []
        self._changes: dict[int, list[tuple[float, float]]] = {}
        self._n_flows = 0
        self.origin_s, self.title = 0.0, ""
        for rank in range(mesh.n_chips):
            row, col = mesh.coord(rank)
            self._describe(rank, "process_name", f"chip ({row}, {col})")
            for number, track in enumerate(self._tracks):
                self._describe(rank, "thread_name", track, number)

    def add(self, track: str, name: str, begin: Seconds, end: Seconds, **args: Json) -> None:
        """Note that every chip was busy with ``name``; arrays of shape (R, C)."""
        spans = zip(begin.reshape(-1).tolist(), end.reshape(-1).tolist(), strict=True)
        for rank, (start_s, stop_s) in enumerate(spans):
            self.span(rank, track, name, start_s, stop_s, **args)

    def span(
        self, rank: int, track: str, name: str, start_s: float, stop_s: float, **args: Json
    ) -> None:
        """Note that one chip was busy; nothing if it took no time."""
        if stop_s > start_s:
            more = {"args": args} if args else {}
            number, us = self._tracks.index(track), (stop_s - start_s) * 1e6
            self._add("X", name, rank, start_s, tid=number, dur=us, **more)

    def spans(self, track: str) -> dict[int, list[JsonObject]]:
        """Return the spans of a track in order, as events, by rank."""
        number = self._tracks.index(track)
        found: dict[int, list[JsonObject]] = {r: [] for r in range(self._mesh.n_chips)}
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

    def waits_for(self, name: str, rank: int, start_s: float, other: int, entered_s: float) -> None:
        """Note that a chip waits from ``start_s`` on for another, which enters at ``entered_s``."""
        self._n_flows += 1
        waiting, compute = (self._tracks.index(track) for track in (WAITING, COMPUTE))
        common = {"cat": "wait", "id": self._n_flows}
        self._add("s", name, rank, start_s, tid=waiting, **common)
        self._add("f", name, other, entered_s, tid=compute, bp="e", **common)

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

    def for_file(self, path: Path) -> str | bytes:
        """Return what a file of that name is to hold: the text, or it packed by gzip."""
        text = self.to_json()
        return gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text

    def _fill_counters(self) -> list[JsonObject]:
        """Return the circular buffers' bytes after each change: what leaves goes first."""
        events = []
        for rank, changes in self._changes.items():
            held = 0.0
            for at_s, n_bytes in sorted(changes):
                held += n_bytes
                event = {"ph": "C", "name": "circular buffer", "pid": rank, "ts": at_s * 1e6}
                events.append(event | {"args": {"bytes": held}})
        return events

    def _add(self, phase: str, name: str, rank: int, at_s: float, **more: Json) -> None:
        event = {"ph": phase, "name": name, "pid": rank, "ts": (self.origin_s + at_s) * 1e6}
        self._events.append(event | more)

    def _describe(self, rank: int, what: str, name: str, track: int = 0) -> None:
        self._events.append(
            {"ph": "M", "name": what, "pid": rank, "tid": track, "args": {"name": name}}
        )
