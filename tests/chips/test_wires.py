"""What crosses the planes of a run, counted there: as many bytes as the wires of its ops say.

Together with `tests.unit.test_wires`, which holds wires against what the device is charged for,
bytes sent are bytes charged.
"""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.ccl.algorithms import is_small
from galaxy_mpi.ccl.wire import Index, Kind
from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.engine.modes import DecodeMode, PrefillMode
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_plane import LocalPlane
from galaxy_mpi.systems import PrefillPass, PrefillUser
from galaxy_mpi.systems.optimizations import TENSOR_GROUPS
from tests.chips.playing import connect
from tests.families import write_family
from tests.prompts import prompt_of

SYSTEMS = ("galaxy", "tt_transformers")
FORMATS = ("bfp4", "bfp8", "bf16")


class CountingPlane(LocalPlane):
    """Counts the bytes that each chip gives to each collective, by what its label says.

    As if they were messages: in shared memory, more is passed on without being sent.
    """

    shares_memory = False

    def __init__(self, mesh, axis):
        super().__init__(mesh, axis)
        self.rows = defaultdict(lambda: defaultdict(list))
        """By (rank, text of the wire): the bytes of each row."""
        self.parts = defaultdict(lambda: defaultdict(list))
        """The same of rows of which each member reads its part."""
        self.boxes_of = defaultdict(lambda: defaultdict(list))
        """The same of all boxes that a chip sends in a collective: (number, bytes of one)."""

    def table(self, rank, label, n_bytes, *, in_parts):
        found = self.parts if in_parts else self.rows
        found[rank][op_of(label)].append(n_bytes)
        return super().table(rank, label, n_bytes, in_parts=in_parts)

    def boxes(self, rank, label, n_bytes, rounds):
        made = super().boxes(rank, label, n_bytes, rounds)
        n_sent = sum(map(len, made.sends))
        assert {len(box) for of_round in made.sends for box in of_round} <= {n_bytes}
        self.boxes_of[rank][op_of(label)].append((n_sent, n_bytes))
        return made


def op_of(label):
    """Return the key of a label's buffer, the op and the layer, of its text."""
    wire, _, op = label.text.partition(", op ")
    return wire.split()[1], op


def write_formats(folder, group, name):
    """Return a file of formats in which one layer has another one for a group of tensors."""
    path = folder / f"{group}-{name}.json"
    path.write_text(json.dumps({"decoders": {"1": {"precision_cfg": {group: name}}}}), "utf-8")
    return path


def expected(program, axis):
    """Return the wires of an axis by key and op: a layer's two norms have the same."""
    found = defaultdict(list)
    for use, wire in program.wires():
        if wire.axis is axis:
            found[wire.key, str(use).removeprefix("op ")].append(wire)
    return found


def bytes_of_terms(wire, size):
    """Return the bytes of a whole term in float32, in parts that end where blocks of 16 do."""
    if wire.kind is Kind.REDUCE_SCATTER:
        return size * FLOAT32.packed_bytes(wire.sent)
    return FLOAT32.packed_bytes((*wire.sent[:-1], -(-wire.sent[-1] // (16 * size)) * 16 * size))


def check(plane, rank, program, axis, kinds, *, passes_terms):
    """Assert that a chip gave every collective of an axis its wire's bytes, and no other bytes."""
    size, wires = plane.size, expected(program, axis)
    rows, parts, boxes = plane.rows[rank], plane.parts[rank], plane.boxes_of[rank]
    assert set(rows) | set(parts) | set(boxes) == set(wires)
    for key, (wire, *same) in wires.items():
        assert {other.sent for other in same} <= {wire.sent}
        kinds.add(wire.kind)
        n_bytes = wire.sent_bytes * (1 + len(same))
        # Bytes of a part that come to the member whose part it is.
        scattered = sum(n // size for n in parts[key]) + sum(each for _, each in boxes[key])
        if wire.kind is Kind.ALL_GATHER:
            assert (sum(rows[key]), scattered) == (n_bytes, 0), wire
        elif passes_terms and is_small(wire, shares_memory=False):
            # The host alone: the device passes on sums, and is charged for the wire.
            n_bytes = bytes_of_terms(wire, size) * (1 + len(same))
            assert (sum(rows[key]), scattered) == (n_bytes, 0), wire
        elif wire.kind is Kind.REDUCE_SCATTER:
            assert (sum(rows[key]), scattered) == (0, n_bytes), wire
        elif not scattered:
            assert sum(rows[key]) == n_bytes, wire
        else:
            # A part for each member, cut where blocks of 16 values end, and gathered again; in
            # float32 anywhere, so in lines of 64 bytes.
            part = -(-wire.sent[-1] // (16 * size)) * 16
            most = wire.dtype.packed_bytes((*wire.sent[:-1], part)) * (1 + len(same))
            assert sum(rows[key]) == scattered, wire
            assert n_bytes / size <= scattered <= max(most, n_bytes / size + 64), wire


def counted(run):
    """Yield (mode, program, planes) of a decode step and of prefill passes, bound and run."""
    with connect(run) as engine:
        chips = engine.chips
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            chips.planes = {axis: CountingPlane(chips.mesh, axis) for axis in Axis}
            work = scheduler.prefill_pass(requests)
            mode = PrefillMode(chips, engine.programs)
            ready = mode.run(work)
            yield ready.bound.program, chips.planes
            engine.prefill_mode.free()
            scheduler.advance({r.number: 5 for r in requests})
        chips.planes = {axis: CountingPlane(chips.mesh, axis) for axis in Axis}
        mode = DecodeMode(chips, engine.programs, None)
        tables = {column: scheduler.page_table(column) for column in chips.columns}
        yield mode.run(scheduler.tokens, tables).bound.program, chips.planes


def check_run(run):
    kinds, modes = set(), set()
    for program, planes in counted(run):
        for axis, plane in planes.items():
            if plane.size == 1:
                assert not plane.rows
                assert not plane.parts
                assert not plane.boxes_of
                continue
            for rank in range(run.working_mesh.n_chips):
                check(plane, rank, program, axis, kinds, passes_terms=run.collectives == "ring")
        modes.add(program.mode)
    assert modes == {"prefill", "decode"}
    if run.working_mesh.cols > 1 and run.working_mesh.rows > 1:
        assert kinds == set(Kind)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """A model whose sizes no mesh divides."""
    return str(write_family("qwen2", tmp_path_factory.mktemp("ragged")))


@pytest.mark.parametrize("mesh", ["1x3", "2x2", "3x2", "5x2"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("precision", ["float32", "performance"])
def test_every_collective_of_a_ragged_model_is_given_its_wires_bytes(
    ragged, system, mesh, precision
):
    run = RunConfig(
        model=ragged,
        system=system,
        mesh=Mesh.parse(mesh),
        precision=precision,
        prompt_tokens=((1, 2, 3), tuple(range(1, 140))),
        batch=5,
        cache_blocks=64,
    )
    check_run(run)


@pytest.mark.parametrize("group", TENSOR_GROUPS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_so_it_is_with_every_format_of_every_group_of_tensors(system, group, tmp_path):
    for name in FORMATS:
        run = RunConfig(
            system=system,
            mesh=Mesh(2, 2),
            n_layers=2,
            batch=6,
            optimizations=write_formats(tmp_path, group, name),
            prompt_tokens=(prompt_of(40),),
        )
        check_run(run)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("collectives", [None, "direct", "ring", "line"])
def test_so_it_is_in_slabs_and_over_every_topology(system, collectives):
    run = RunConfig(
        system=system,
        mesh=Mesh(2, 2),
        n_layers=1,
        collectives=collectives,
        prompt_tokens=(prompt_of(2500),),
    )
    check_run(run)


def test_sums_of_another_format_are_other_bytes():
    """Of CREATE_HEADS; layers have no formats of their own there, in the original either."""
    sizes = {}
    for name in FORMATS:
        run = RunConfig(
            mesh=Mesh(2, 2),
            n_layers=1,
            batch=8,
            formats=f"decode.qkv_sum={name}",
            prompt_tokens=(prompt_of(20),),
        )
        *_, (_, planes) = counted(run)
        for (key, _), (n_bytes,) in planes[Axis.ROW].parts[0].items():
            if key == "CREATE_HEADS":
                sizes[name] = n_bytes
    # One exponent for 16 values of 8 or 4 bits.
    assert sizes["bfp8"] * 9 == sizes["bfp4"] * 17
    assert sizes["bfp8"] != sizes["bf16"]


@pytest.mark.parametrize("topology", ["ring", "line"])
def test_the_sum_of_a_chunk_passes_every_other_chip_once(topology):
    run = RunConfig(
        mesh=Mesh(1, 4), n_layers=1, collectives=topology, prompt_tokens=(prompt_of(20),)
    )
    _, planes = next(iter(counted(run)))
    plane = planes[Axis.ROW]
    total = defaultdict(int)
    for rank in range(4):
        for key, boxes in plane.boxes_of[rank].items():
            total[key] += sum(n for n, _ in boxes)
    assert total
    assert set(total.values()) == {4 * 3}


def test_the_memory_of_prefill_does_not_grow_with_the_prompt():
    """Tensors of more than 2,048 rows travel in slabs through the same memory."""
    sizes = []
    for n_tokens in (2048, 4096, 6144):
        run = RunConfig(mesh=Mesh(1, 2), n_layers=1, precision="float32")
        run = replace(run, prompt_tokens=(prompt_of(n_tokens),))
        with connect(run) as engine:
            engine.prefill_mode.run(one_pass(run.prompt_tokens[0]))
            plane = engine.chips.planes[Axis.ROW]
            sizes.append(sum(memory.nbytes for memory in plane._memory.values()))
    assert sizes[0] == sizes[1] == sizes[2] > 0


def one_pass(tokens):
    """Return the pass of a prompt alone."""
    blocks = np.arange(-(-len(tokens) // 64))
    return PrefillPass((PrefillUser(np.array(tokens), 0, 0, blocks),))


def test_token_numbers_are_no_values():
    """What is not counted in a format of the file: 2 bytes for each candidate's number."""
    run = RunConfig(mesh=Mesh(2, 1), n_layers=1, batch=4, prompt_tokens=(prompt_of(9),))
    *_, (program, _) = counted(run)
    (wire,) = (w for _, w in program.wires() if isinstance(w.dtype, Index))
    assert wire.sent_bytes == 4 * 32 * 2
    assert FLOAT32.packed_bytes((4, 32)) == 2 * wire.sent_bytes
