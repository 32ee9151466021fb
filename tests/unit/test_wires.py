"""Bytes sent are bytes charged: every message of every op, in every format, on any mesh.

The expected load of the links is counted here from the wire's own bytes, by kind of collective;
that what crosses on the host has the wire's bytes is tested where it crosses.
"""

import json
from collections import Counter
from dataclasses import replace

import pytest

from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.dtypes import BF16, BFP4, BFP8, TILE, padded
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.program import Cross, Kernel
from galaxy_mpi.systems import PRECISIONS, PassShape, Wanted, system_of
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.ops.reduce import FusedReduce
from galaxy_mpi.systems.ops.sample import HostSample
from galaxy_mpi.systems.optimizations import TENSOR_GROUPS
from galaxy_mpi.systems.table import then
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.estimator import Estimator

GALAXY = Machine.load("wormhole_galaxy_6u")
UNIT = replace(GALAXY, links=1, link_bytes_per_s=1.0, topology="line")
"""A machine on which the seconds of a link are the bytes that the end of a line passes."""

SYSTEMS = ("galaxy", "tt_transformers")
MESHES = ("1x1", "1x3", "4x1", "2x2", "3x2", "5x2", "8x4")
MODEL = replace(PRESETS["smollm2-135m"], n_layers=2)
"""Nine heads of 64, three kv heads, dim 576: no mesh divides all of them."""

PASSES = {
    "short": PassShape.of_prompt(5),
    "middle": PassShape.of_prompt(130),
    "columns share the queries": PassShape.of_prompt(1500),
    "slabs": PassShape.of_prompt(5000),
    "behind a prefix": PassShape((32,), (0,), 1, 128, start=128),
    "side by side": PassShape((32,) * 20, (0,) * 20, 32, 128),
}


def formats(tmp_path, system):
    """Yield the precisions of the package and one for each format of each group of a file."""
    yield from (PRECISIONS["performance"], PRECISIONS["accuracy"])
    yield from (Wanted(name).on(system, MODEL) for name in ("performance", "accuracy"))
    for group in TENSOR_GROUPS:
        for name in ("bfp4", "bfp8", "bf16"):
            path = tmp_path / f"{group}-{name}.json"
            path.write_text(
                json.dumps({"decoders": {"1": {"precision_cfg": {group: name}}}}), "utf-8"
            )
            yield Wanted(optimizations=path).on(system, MODEL)


def programs_of(system, mesh, precision, users=32):
    """Return what makes programs; every collective may take all links there are."""
    emulated = system_of(system, mesh)
    fabric = replace(emulated.fabric, gather_links=None, scatter_links=None)
    emulated = replace(emulated, fabric=fabric)
    return Programs(MODEL, mesh, emulated, precision, users=users)


def every_program(programs):
    """Yield (name, program)."""
    yield "decode", programs.decode()
    for name, work in PASSES.items():
        if len(work.columns) == 1 or programs.mesh.cols == 1:
            yield name, programs.prefill(work)
        else:
            columns = tuple(user % programs.mesh.cols for user in range(work.n_users))
            yield name, programs.prefill(replace(work, columns=columns))


def expected_bytes(wire, size, crosses):
    """Return the least and the most that the end of a line may pass of a message."""
    if wire.kind is not Kind.ALL_REDUCE or len(crosses) == 1:
        return (size - 1) * wire.n_bytes, (size - 1) * wire.n_bytes
    # A reduce-scatter and an all-gather of a part each; the device pads parts to whole tiles.
    assert len(crosses) == 2
    part = -(-wire.sent[-1] // size)
    padded_part = wire.dtype.packed_bytes((*wire.shape[:-1], padded(part)))
    return (
        2 * (size - 1) * wire.n_bytes / size,
        2 * (size - 1) * max(wire.n_bytes / size, padded_part),
    )


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_message_is_charged_with_its_bytes_and_nothing_else_is(system, mesh, tmp_path):
    costs, n_checked = Costs(UNIT), 0
    of_mesh = system_of(system, Mesh.parse(mesh))
    for precision in formats(tmp_path, of_mesh):
        programs = programs_of(system, Mesh.parse(mesh), precision)
        for name, program in every_program(programs):
            for use in program.uses:
                if type(use.op) is HostSample:  # charged with what the host reads instead
                    continue
                wires = use.op.wires()
                assert len(set(wires)) == len(wires)
                crosses = [c for c in use.op.priced(costs) if isinstance(c, Cross)]
                assert {c.wire for c in crosses} <= set(wires), (name, use.op.name)
                for wire in wires:
                    size = programs.mesh.size(wire.axis)
                    own = [c for c in crosses if c.wire == wire]
                    if size == 1:
                        assert sum(c.link_bytes for c in own) == 0
                        continue
                    where = f"{name}, {precision.name}, {use.op.name}: {wire}"
                    least, most = expected_bytes(wire, size, own)
                    charged = sum(c.link_bytes for c in own)
                    assert least * (1 - 1e-12) <= charged <= most * (1 + 1e-12), where
                    n_checked += 1
    assert n_checked > 0 or mesh == "1x1"


def is_padded(wire, name):
    """Return whether what the host sends is what the device does but for padding."""
    *outer, width = wire.sent
    *device_outer, device_width = wire.shape
    widths = {width, padded(width)}
    if wire.key == BufferKey.LM_HEAD:
        widths = {padded(width, 1024)}  # whole tiles on each of 32 cores
    if device_width not in widths:
        return False
    if name == "decode":
        return all(d in (s, padded(s)) for s, d in zip(outer, device_outer, strict=True))
    # The device computes whole padded sequences, the host the tiles of them that hold a token.
    return all(s <= d for s, d in zip(outer, device_outer, strict=True))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("users", [1, 32])
def test_the_host_sends_what_the_device_does_without_padding(system, mesh, users):
    programs = programs_of(system, Mesh.parse(mesh), PRECISIONS["performance"], users)
    for name, program in every_program(programs):
        for use, wire in program.wires():
            if use.op.name == "final_norm" and name == "side by side":
                # The host keeps a tile of rows of each user, whose bits then do not depend on the
                # others; the device puts the last rows of all users in one tile.
                assert wire.sent[0] == TILE * PASSES[name].n_users
                assert wire.shape[0] == TILE
                continue
            assert len(wire.sent) == len(wire.shape)
            assert is_padded(wire, name), f"{name}, {use.op.name}: {wire}, device {wire.shape}"


def test_the_format_of_activations_is_that_of_their_messages(tmp_path):
    """By hand, the stream of Llama-70B on T3K: 32 users by 1,024 columns."""
    sizes, seconds, link_bytes = {}, {}, {}
    model, mesh = replace(PRESETS["llama3-70b"], n_layers=1), Mesh(1, 8)
    system = system_of("tt_transformers", mesh)
    for name in ("mixed", "bf16", "bfp8", "bfp4"):
        path = tmp_path / f"{name}.json"
        entry = {"default": {"precision_cfg": {"activation": name}}}
        path.write_text(json.dumps({"decoders": entry}), "utf-8")
        precision = Wanted(optimizations=path).on(system, model)
        programs = Programs(model, mesh, system, precision, users=32)
        (wire, *others) = (w for _, w in programs.decode().wires() if w.key == "LAYERNORM")
        assert {other.dtype for other in others} == {wire.dtype}
        timing = Estimator(programs, GALAXY).step([127])
        sizes[name], seconds[name] = wire.n_bytes, timing.seconds
        link_bytes[name] = timing.link_bytes["column"]
    # Blocks of 16 values share an exponent, in tiles of 32 rows; unset, the stream is bf16.
    assert sizes == {"mixed": 65_536, "bf16": 65_536, "bfp8": 32 * 1088, "bfp4": 32 * 576}
    assert len(set(seconds.values())) == len(set(link_bytes.values())) == 3


def test_each_format_of_a_group_shows_in_the_wires_of_its_layer_only(tmp_path):
    system, n_seen = system_of("tt_transformers", Mesh(1, 2)), 0
    for precision in formats(tmp_path, system):
        group, _, name = precision.name.partition("-")
        if group != "activation":
            continue
        program = programs_of("tt_transformers", Mesh(1, 2), precision).decode()
        dtype = {"bfp4": BFP4, "bfp8": BFP8, "bf16": BF16}[name]
        found = Counter(
            (use.layer, wire.dtype)
            for use, wire in program.wires()
            if wire.key in (BufferKey.LAYERNORM, BufferKey.FF2) and use.layer >= 0
        )
        assert found == Counter({(0, BF16): 3}) + Counter({(1, dtype): 3})
        n_seen += 1
    assert n_seen == 3


# --- an op that is added


class CountRows(SystemOp):
    """Sends a word to all rows, on two cores, and returns what it is given."""

    @property
    def _word(self):
        return Wire("COUNT", Axis.COLUMN, Kind.ALL_GATHER, BF16, (TILE, TILE))

    def __call__(self, x):
        self.record(x.program, (x,))
        return x

    def wires(self):
        return (self._word,)

    def charges(self, costs):
        yield Kernel("count", 2e-6, 2)
        yield from self.cross(costs, self._word, name="all_gather_count")

    def bind(self, chip, x):
        return ()


def test_an_op_that_is_added_is_charged_and_sends():
    mesh, precision = Mesh(8, 4), PRECISIONS["performance"]
    galaxy = system_of("galaxy", mesh)
    changed = replace(galaxy, decode=replace(galaxy.decode, down=then(FusedReduce, CountRows)))
    plain, more = (
        Estimator(Programs(MODEL, mesh, system, precision, users=32), GALAXY).step([127] * 4)
        for system in (galaxy, changed)
    )
    word = Costs(GALAXY).wire_s(8, 2048, GALAXY.links)
    assert more.by_op_s["count"] == pytest.approx(MODEL.n_layers * (2e-6 + GALAXY.op_gap_s))
    sent = more.link_bytes["column"] - plain.link_bytes["column"]
    assert sent == pytest.approx(MODEL.n_layers * word * GALAXY.link_bytes_per_s)
    spent = more.by_op_s["count"] + more.by_op_s["all_gather_count"]
    assert more.seconds - plain.seconds == pytest.approx(spent)
