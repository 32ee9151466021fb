"""A program of five collectives on a 1xN mesh, one of which rank 1 gets wrong: see its tests.

mpirun -n 4 python tests/command/crossings.py KIND FAULT
"""

import sys
import time

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport, world_rank
from galaxy_mpi.mesh.plane import Label, RoundPeers

TIMEOUT_S = 4.0


def ring(size):
    return tuple(
        tuple(RoundPeers(((m + 1) % size,), ((m - 1) % size,)) for _ in range(size - 1))
        for m in range(size)
    )


def items(fault):
    """Return (kind, axis, name, bytes) of what this rank crosses."""
    program = [
        ("table", Axis.ROW, "QKV", 2048),
        ("table", Axis.COLUMN, "WO", 4096),
        ("table", Axis.ROW, "FF1", 200_000),
        ("boxes", Axis.ROW, "GATE", 800),
        ("table", Axis.COLUMN, "FF2", 64),
    ]
    if world_rank() != 1:
        return program
    if fault == "order":
        program[0], program[2] = program[2], program[0]
    if fault == "kinds":
        program[2], program[3] = program[3], program[2]
    if fault == "shape":
        program[2] = ("table", Axis.ROW, "FF1", 400_000)
    if fault == "box":
        program[3] = ("boxes", Axis.ROW, "GATE", 1600)
    if fault == "omitted table":
        del program[2]
    if fault == "omitted boxes":
        del program[3]
    return program


def main(kind, fault):
    with MpiTransport.connect(Mesh(2, 2), kind=kind, timeout_s=TIMEOUT_S) as transport:
        transport.begin("decode step 7")
        (chip,) = transport.chips
        for axis in Axis:
            transport.plane(axis).begin()
        calls = []
        for number, (what, axis, name, n_bytes) in enumerate(items(fault)):
            plane = transport.plane(axis)
            label = Label(
                hash((number, n_bytes)), f"{name} within a {axis.group_name}, {n_bytes} bytes"
            )
            if what == "table":
                calls.append(plane.table(chip, label, n_bytes, in_parts=False).crossing)
            else:
                calls += plane.boxes(chip, label, n_bytes, ring(plane.size)).crossings
        for axis in Axis:
            transport.plane(axis).end()
        for turn in range(3):
            for call in calls:
                call()
            if fault == "late" and transport.rank == 1 and turn == 1:
                time.sleep(60)
            if fault == "report" and transport.rank == 1 and turn == 1:
                transport.gather(0)


main(*sys.argv[1:])
