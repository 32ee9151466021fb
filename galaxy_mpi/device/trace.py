"""Device time as a trace that ui.perfetto.dev opens: a process a chip, a track an engine.

Trace event format, JSON, times in microseconds of device time. Schema version 1:

* ``X`` events: ops on track ``compute``, reads of weights on ``prefetch``, collectives on
  ``links ROWS`` and ``links COLS`` (from a chip's entry until its result is there);
* ``s`` and ``f`` events: a flow from each member of a collective to the next one of its ring.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["COMPUTE", "PREFETCH", "SCHEMA_VERSION", "Trace"]

SCHEMA_VERSION = 1

COMPUTE, PREFETCH = "compute", "prefetch"

_TRACKS = (COMPUTE, PREFETCH, *(f"links {axis.name}" for axis in Axis))

Seconds = NDArray[np.float64]


class Trace:
    """Collects what the clocks do.

    Parameters
    ----------
    mesh : Mesh
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._events: list[dict[str, Any]] = []
        self._n_flows = 0
        for rank in range(mesh.n_chips):
            row, col = mesh.coord(rank)
            self._describe(rank, "process_name", f"chip ({row}, {col})")
            for number, track in enumerate(_TRACKS):
                self._describe(rank, "thread_name", track, number)

    def add(self, track: str, name: str, begin: Seconds, end: Seconds) -> None:
        """Note that every chip was busy with ``name``; arrays of shape (R, C)."""
        number = _TRACKS.index(track)
        spans = zip(begin.reshape(-1).tolist(), end.reshape(-1).tolist(), strict=True)
        for rank, (start_s, stop_s) in enumerate(spans):
            if stop_s > start_s:
                self._events.append(
                    {
                        "ph": "X",
                        "name": name,
                        "pid": rank,
                        "tid": number,
                        "ts": start_s * 1e6,
                        "dur": (stop_s - start_s) * 1e6,
                    }
                )

    def collective(self, name: str, axis: Axis, begin: Seconds, end: Seconds) -> None:
        """Note a collective on the links, with a flow from each member to the next."""
        track = f"links {axis.name}"
        self.add(track, name, begin, end)
        begins, ends = begin.reshape(-1).tolist(), end.reshape(-1).tolist()
        for rank in range(self._mesh.n_chips):
            group = self._mesh.group(rank, axis)
            following = group[(group.index(rank) + 1) % len(group)]
            if following != rank:
                self._n_flows += 1
                ends_of_flow = (("s", rank, begins[rank]), ("f", following, ends[following]))
                for phase, chip, at_s in ends_of_flow:
                    event = {
                        "ph": phase,
                        "name": name,
                        "cat": "message",
                        "id": self._n_flows,
                        "pid": chip,
                        "tid": _TRACKS.index(track),
                        "ts": at_s * 1e6,
                    }
                    self._events.append(event | ({"bp": "e"} if phase == "f" else {}))

    def to_json(self) -> str:
        """Return the file's text."""
        content = {
            "traceEvents": self._events,
            "displayTimeUnit": "ns",
            "otherData": {"schema_version": SCHEMA_VERSION, "clock": "device"},
        }
        return json.dumps(content) + "\n"

    def _describe(self, rank: int, what: str, name: str, track: int = 0) -> None:
        self._events.append(
            {"ph": "M", "name": what, "pid": rank, "tid": track, "args": {"name": name}}
        )
