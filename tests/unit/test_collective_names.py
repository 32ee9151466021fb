"""What reports call a collective: what its members really do."""

import pytest

from galaxy_mpi.ccl.algorithms import DIRECT, GALAXY_PREFILL, GENERIC_DECODE, RING
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_plane import LocalPlane
from galaxy_mpi.program import Binder
from tests.collectives import wire_of


def test_what_collectives_run_as_is_said_in_words():
    wires = [
        wire_of(kind, FLOAT32, (4, 32), key=kind.name)
        for kind in (Kind.ALL_GATHER, Kind.REDUCE_SCATTER, Kind.ALL_REDUCE)
    ]
    both = {"ALL_GATHER": "direct", "REDUCE_SCATTER": "ring", "ALL_REDUCE": "ring, then direct"}
    planes = {Axis.ROW: LocalPlane(Mesh(1, 4), Axis.ROW)}
    assert GALAXY_PREFILL.ran_as(wires, planes) == both
    assert GALAXY_PREFILL.with_lines(scatter=True, gather=False).ran_as(wires, planes) == {
        name: words.replace("ring", "line") for name, words in both.items()
    }
    assert set(DIRECT.ran_as(wires, planes).values()) == {"direct"}
    over_a_ring = GENERIC_DECODE.over("ring")
    assert over_a_ring.ran_as(wires, planes) == dict.fromkeys(both, "ring of terms") | {
        "ALL_GATHER": "ring"
    }
    large = [wire_of(wire.kind, FLOAT32, (256, 1024), key=wire.key) for wire in wires]
    assert set(over_a_ring.ran_as(large, planes).values()) == {"ring"}
    assert GENERIC_DECODE.ran_as(wires, planes)["ALL_REDUCE"] == "line of terms"
    assert GENERIC_DECODE.over("direct").skips_alone


class AskedPlane(LocalPlane):
    """A row of eight chips that notes what it is asked for."""

    def __init__(self, shares_memory):
        super().__init__(Mesh(1, 8), Axis.ROW)
        self.shares_memory, self.asked = shares_memory, set()

    def relay(self, rank, label, n_bytes, rounds):
        self.asked.add("relay")
        return super().relay(rank, label, n_bytes, rounds)

    def boxes(self, rank, label, n_bytes, rounds):
        self.asked.add("boxes")
        return super().boxes(rank, label, n_bytes, rounds)


GATHERED = "ring of terms"


@pytest.mark.parametrize(
    ("kind", "shape", "shared", "sent"),
    [
        (Kind.REDUCE_SCATTER, (4, 128), GATHERED, GATHERED),
        (Kind.REDUCE_SCATTER, (1, 513), GATHERED, "ring"),
        (Kind.REDUCE_SCATTER, (32, 1024), GATHERED, "ring"),
        (Kind.REDUCE_SCATTER, (1, 32769), "ring", "ring"),
        (Kind.ALL_REDUCE, (4, 1024), GATHERED, GATHERED),
        (Kind.ALL_REDUCE, (4, 1025), f"{GATHERED}, then ring", "ring"),
        (Kind.ALL_REDUCE, (1, 2**18), f"{GATHERED}, then ring", "ring"),
        (Kind.ALL_REDUCE, (1, 2**18 + 1), "ring", "ring"),
        (Kind.ALL_GATHER, (1, 8), "ring", "ring"),
        (Kind.REDUCE_SCATTER, (2049, 1024), f"ring and {GATHERED}", "ring"),
    ],
)
def test_names_tell_what_was_bound(kind, shape, shared, sent):
    """Gathered terms, and all-gathers, are rows that are passed on; sums are in boxes."""
    wire = wire_of(kind, FLOAT32, shape)
    for shares_memory, words in ((True, shared), (False, sent)):
        plane = AskedPlane(shares_memory)
        assert RING.words(wire, plane) == words
        RING.bind(Binder(Mesh(1, 8), 0, {Axis.ROW: plane}, RING), wire).cross()
        sums = words.replace(GATHERED, "")
        if kind is not Kind.REDUCE_SCATTER:
            sums = sums.partition(",")[0] if kind is Kind.ALL_REDUCE and sums == "ring" else ""
        rows = GATHERED in words or kind is not Kind.REDUCE_SCATTER
        assert plane.asked == {
            name for name, is_one in (("boxes", sums), ("relay", rows)) if is_one
        }
