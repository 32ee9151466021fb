"""Programs of collectives over real ranks, with one chip a rank and several, on one host or more.

Operands are small integers, so every sum is exact; memory is poisoned as soon as it may be, so
whatever is read too late shows as NaN.
"""

import random
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from galaxy_mpi.ccl.algorithms import COLLECTIVES, GALAXY_PREFILL, GENERIC_DECODE
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import BFP8, FLOAT32
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.mesh.planes import HOSTS_VARIABLE
from galaxy_mpi.program import Binder, bind_program
from tests.collectives import program_of, results, wire_of
from tests.conftest import exact_operand

SIZE = MPI.COMM_WORLD.size

pytestmark = pytest.mark.mpi(min_size=2)

KINDS = {"shared": ("shared", 1), "mpi": ("mpi", 1), "two hosts": ("auto", 2)}

MESHES = {
    2: [("1x2", 1), ("2x1", 1), ("2x2", 2), ("4x2", 4), ("2x3", 3)],
    4: [("2x2", 1), ("1x4", 1), ("4x2", 2), ("3x4", 3)],
    8: [("8x1", 1), ("4x4", 2)],
    32: [("8x4", 1)],
}

WAYS = [*COLLECTIVES.values(), GALAXY_PREFILL, GENERIC_DECODE]

SHAPE = (6, 48)


def pause(chance: random.Random) -> None:
    time.sleep(chance.choice([0, 0, 0, 0.001]))


def right_of(kind: Kind, terms: list[np.ndarray], index: int) -> np.ndarray:
    """Return what member ``index`` of a group gets."""
    if kind is Kind.ALL_GATHER:
        return np.stack(terms)
    total = sum(terms)
    if kind is Kind.ALL_REDUCE:
        return total
    width = SHAPE[1] // len(terms)
    return total[:, index * width : (index + 1) * width]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [FLOAT32, BFP8], ids=lambda d: d.name)
@pytest.mark.parametrize(("text", "chips_per_rank"), MESHES.get(SIZE, [(f"1x{SIZE}", 1)]))
def test_all_collectives_over_both_axes(kind, dtype, text, chips_per_rank, monkeypatch):
    mesh, (transport_kind, hosts) = Mesh.parse(text), KINDS[kind]
    monkeypatch.setenv(HOSTS_VARIABLE, str(hosts))
    asked = []
    for axis in Axis:
        width = SHAPE[1] // mesh.size(axis)
        for way in WAYS:
            for what in Kind:
                shape = (SHAPE[0], width) if what is Kind.REDUCE_SCATTER else SHAPE
                asked.append((way, wire_of(what, dtype, shape, axis)))

    def bind_to(way, wire):
        def bind(chip):
            chip.call(pause, chance)
            return way.bind(chip, wire)

        return bind

    with MpiTransport.connect(mesh, kind=transport_kind, chips_per_rank=chips_per_rank) as one:
        chance = random.Random(one.rank)
        planes = {axis: one.plane(axis) for axis in Axis}
        chips = [Binder(mesh, chip, planes, None, poisons=True) for chip in one.chips]
        values = [np.zeros(SHAPE, np.float32) for _ in one.chips]
        program = program_of([bind_to(*what) for what in asked], SHAPE)
        bound = bind_program(program, chips, [{"values": v} for v in values], planes)
        for turn in range(3):
            for chip, array in zip(one.chips, values, strict=True):
                array[...] = exact_operand(100 * turn + chip, SHAPE)
            bound.run()
            for number, (_, wire) in enumerate(asked):
                found = results(bound, number)
                for chip, got in zip(one.chips, found, strict=True):
                    group = mesh.group(chip, wire.axis)
                    terms = [exact_operand(100 * turn + member, SHAPE) for member in group]
                    index = mesh.index(chip, wire.axis)
                    np.testing.assert_array_equal(got, right_of(wire.kind, terms, index))
        bound.free()


def run_once(transport, way, terms):
    """Return the bits of every collective of a way, over both axes, on each chip here."""
    mesh, planes = transport.mesh, {axis: transport.plane(axis) for axis in Axis}
    wires = [
        wire_of(kind, BFP8, SHAPE, axis)
        for axis in Axis
        for kind in (Kind.ALL_REDUCE, Kind.ALL_GATHER)
    ]
    binds = [lambda chip, wire=wire: way.bind(chip, wire) for wire in wires]
    chips = [Binder(mesh, chip, planes, None) for chip in transport.chips]
    inputs = [{"values": terms[chip]} for chip in transport.chips]
    bound = bind_program(program_of(binds, SHAPE), chips, inputs, planes)
    bound.run()
    bits = [[r.tobytes() for r in results(bound, n)] for n in range(len(wires))]
    bound.free()
    return bits


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_transports_give_the_same_bits(way, monkeypatch):
    """With values that no order and no format represents exactly."""
    text, chips_per_rank = MESHES.get(SIZE, [(f"1x{SIZE}", 1)])[-1]
    mesh = Mesh.parse(text)
    terms = [
        np.random.default_rng(chip).standard_normal(SHAPE).astype(np.float32)
        for chip in range(mesh.n_chips)
    ]
    found = []
    for kind, hosts in KINDS.values():
        monkeypatch.setenv(HOSTS_VARIABLE, str(hosts))
        with MpiTransport.connect(mesh, kind=kind, chips_per_rank=chips_per_rank) as transport:
            found.append(run_once(transport, way, terms))
            mine = slice(transport.chips[0], transport.chips[-1] + 1)
    alone = [result[mine] for result in run_once(LocalTransport(mesh), way, terms)]
    assert all(results == alone for results in found)


@pytest.mark.parametrize("kind", KINDS)
def test_programs_follow_each_other_in_the_same_memory(kind, monkeypatch):
    """A fast rank is in the next program while a slow one still reads what the last one brought."""
    mesh = Mesh.parse(MESHES.get(SIZE, [(f"1x{SIZE}", 1)])[0][0])
    transport_kind, hosts = KINDS[kind]
    monkeypatch.setenv(HOSTS_VARIABLE, str(hosts))
    with MpiTransport.connect(mesh, kind=transport_kind) as transport:
        planes = {axis: transport.plane(axis) for axis in Axis}
        rank, chance, value = transport.rank, random.Random(transport.rank), np.zeros(SHAPE, "f4")

        def program(way, kinds):
            wires = [wire_of(what, FLOAT32, SHAPE, axis) for axis in Axis for what in kinds]

            def bind_to(wire):
                def bind(chip):
                    chip.call(pause, chance)
                    return way.bind(chip, wire)

                return bind

            chip = Binder(mesh, rank, planes, None, poisons=True)
            asked = program_of([bind_to(wire) for wire in wires], SHAPE)
            return bind_program(asked, [chip], [{"values": value}], planes), wires

        programs = [
            program(COLLECTIVES["direct"], [Kind.ALL_GATHER]),
            program(GALAXY_PREFILL, [Kind.ALL_REDUCE, Kind.ALL_GATHER, Kind.ALL_REDUCE]),
            program(GENERIC_DECODE, [Kind.ALL_REDUCE]),
        ]
        for turn in range(24):
            bound, wires = programs[turn % 3 if turn < 12 else turn % 2]
            value[...] = exact_operand(100 * turn + rank, SHAPE)
            bound.run()
            for number, wire in enumerate(wires):
                group = mesh.group(rank, wire.axis)
                terms = [exact_operand(100 * turn + member, SHAPE) for member in group]
                right = right_of(wire.kind, terms, mesh.index(rank, wire.axis))
                np.testing.assert_array_equal(results(bound, number)[0], right)
        for bound, _ in programs:
            bound.free()


def test_shared_memory_has_no_name_to_leave_behind():
    mesh = Mesh.parse(MESHES.get(SIZE, [(f"1x{SIZE}", 1)])[0][0])
    with MpiTransport.connect(mesh, kind="shared") as transport:
        run_once(transport, GALAXY_PREFILL, [np.zeros(SHAPE, np.float32)] * mesh.n_chips)
        maps = Path("/proc/self/maps").read_text().splitlines()
        ours = [line.split(maxsplit=5)[-1] for line in maps if "memfd:galaxy_mpi" in line]
        assert set(ours) == {"/memfd:galaxy_mpi (deleted)"}
