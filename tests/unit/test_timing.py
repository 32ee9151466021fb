"""The device model: constants, costs and clocks against sums done by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from galaxy_mpi.errors import CollectiveError, ConfigError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.program import Bound, Consumed, Kernel, Take
from galaxy_mpi.studies.published_times import published_times
from galaxy_mpi.systems import PRECISIONS, PassShape, system_of
from galaxy_mpi.timing import MACHINES, ChipClock, Costs, Machine, Slowness, Tape
from galaxy_mpi.timing.machine import read_constants
from galaxy_mpi.timing.mesh_clock import MeshClock
from galaxy_mpi.timing.published import CALIBRATION
from galaxy_mpi.timing.trace import Trace
from tests.charged import cross, program_of, tape_of

GALAXY = Machine.load("wormhole_galaxy_6u")
COSTS = Costs(GALAXY)
BFP8, BFP4 = 1088, 576


def profile(tmp_path, change):
    """Return the path of the Galaxy's profile with something changed."""
    name = f"{CALIBRATION.parent.parent}/machines/wormhole_galaxy_6u.yaml"
    with open(name, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    change(content)
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", MACHINES)
def test_every_constant_says_its_unit_and_where_it_is_from(name):
    published = {datum.name for datum in published_times()}
    for key, constant in read_constants(name).items():
        assert constant.unit, key
        assert constant.source, key
        if constant.fitted:
            assert constant.low < constant.value < constant.high, key
        rest = constant.fitted.removesuffix(" alone").removesuffix("its prior")
        # Names may have commas in them, and begin as others do.
        for what in sorted(published, key=len, reverse=True):
            rest = rest.replace(what, "")
        assert not rest.strip(", "), f"{key} is fitted to {rest}"


def test_a_profile_from_a_file_is_taken_as_it_is(tmp_path):
    path = profile(tmp_path, lambda c: c["constants"]["links"].update(value=3))
    assert Machine.load(path).links == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["constants"].pop("links"), "missing links; unknown nothing"),
        (lambda c: c["constants"].update(speed={"value": 1}), "unknown 'speed'"),
        (
            lambda c: c["constants"]["links"].update(value="four"),
            "links needs a value from 1 to 1048576",
        ),
        (lambda c: c["constants"]["links"].update(value=-1), "links needs a value .* got -1"),
        (lambda c: c["constants"]["launch_s"].update(value=0), "launch_s needs a value above 0"),
        (lambda c: c["constants"].update({7: {"value": 1}}), "unknown 7"),
        (lambda c: c["constants"].update(launch_s=[1]), "launch_s needs a value above 0, got None"),
        (lambda c: c["constants"]["links"].update(unit=[1]), "unit, source and fitted of links"),
        (lambda c: c.update(mesh="eight"), "a mesh is written ROWSxCOLUMNS"),
        (lambda c: c.update(extends=["n150"]), "extends \\['n150'\\]; choose .*n150"),
        (lambda c: c["constants"]["links"].pop("source"), "links needs a unit and a source"),
        (lambda c: c.update(topology="torus"), "topology is ring or line, got 'torus'"),
        (lambda c: c.pop("constants"), "has no `constants`"),
    ],
)
def test_a_broken_profile_is_refused_with_what_is_wrong(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Machine.load(profile(tmp_path, change))


@pytest.mark.parametrize("text", ["125e+9", "1.25e11", "125000000000"])
def test_floats_are_read_as_people_write_them(tmp_path, text):
    path = Path(profile(tmp_path, lambda c: None))
    content = path.read_text()
    written = f"value: {read_constants('wormhole_galaxy_6u')['link_bytes_per_s'].value}"
    assert content.count(written) == 1
    path.write_text(content.replace(written, f"value: {text}"))
    assert Machine.load(str(path)).link_bytes_per_s == 125e9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "it has an alias .* in line 2; write it out"),
        ("a: 2001-99-99\n", "not readable YAML"),
        ("? [1, 2]\n: 3\n", "not readable YAML"),
        ("a: " + "[" * 5000, "not readable YAML"),
        ("a: 0x" + "f" * 9000, "has no `constants`"),
        ("x" * 2**21, "larger than 1 MiB"),
        ("\x00", "not readable YAML"),
    ],
)
def test_text_that_is_no_profile_is_one_line(tmp_path, text, said):
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Machine.load(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_unknown_machine_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no machine 'tpu'; choose blackhole_galaxy, n150"):
        Machine.load("tpu")


def test_bytes_of_a_layer_are_those_of_the_published_layout():
    """Llama-70B on 8x4, padded to the banks: 3.34 + 2.51 + 4.42 + 4.42 + 8.77 MB."""
    weights = [
        (2048, 1280, BFP8, 3.34),
        (1024, 2048, BFP8, 2.51),
        (2048, 3584, BFP4, 4.42),
        (2048, 3584, BFP4, 4.42),
        (3584, 2048, BFP8, 8.77),
    ]
    for k, n, tile_bytes, megabytes in weights:
        assert COSTS.weight_bytes(k, n, tile_bytes) / 1e6 == pytest.approx(megabytes, abs=0.006)


def test_a_matmul_on_the_ring_pays_for_its_padding():
    """1024 rows of a weight are 32 tiles: 24 cores take two each, as if there were 48."""
    peak = 2e12
    arithmetic_s = 2 * 32 * (48 * 32) * (72 * 32) / (24 * peak)
    overhead_s = GALAXY.launch_s + 24 * GALAXY.ring_core_hop_s
    assert COSTS.ring_matmul_s(32, 1024, 2048, peak) == pytest.approx(overhead_s + arithmetic_s)
    assert COSTS.ring_matmul_s(1, 1024, 2048, peak) == COSTS.ring_matmul_s(32, 1536, 2304, peak)


def test_a_matmul_from_dram_takes_its_bytes_or_its_arithmetic_or_its_multicasts():
    reading_s = 2048 * 16512 / 1024 * BFP8 / GALAXY.dram_bytes_per_s  # padded to 12 banks
    few = COSTS.bank_matmul_s(32, 2048, 16384, BFP8, 2e12, 64)
    assert few == pytest.approx(GALAXY.launch_s + reading_s)
    assert (few.bound, few.dram_bytes) == (Bound.DRAM, 2048 * 16512 / 1024 * BFP8)
    many = COSTS.bank_matmul_s(4096, 2048, 16384, BFP8, 2e12, 64)
    assert many == pytest.approx(GALAXY.launch_s + 2 * 4096 * 2048 * 16512 / (12 * 2e12))
    assert many.bound is Bound.FLOPS
    small = COSTS.bank_matmul_s(32, 2048, 384, BFP8, 2e12, 64)
    assert small == pytest.approx(GALAXY.launch_s + 64 * GALAXY.multicast_block_s)
    head = COSTS.head_matmul_s(32, 2048, 16384, BFP8, 2e12)
    assert head == pytest.approx(
        GALAXY.launch_s + 2048 * 16384 / 1024 * BFP8 / GALAXY.dram_bytes_per_s
    )


def test_a_matmul_on_the_ring_is_never_faster_without_the_prefetcher():
    for k, n in ((512, 128), (2048, 3584), (3584, 2048)):
        fed = COSTS.ring_matmul_s(32, k, n, 2e12)
        assert COSTS.ring_matmul_s(32, k, n, 2e12, BFP8) >= fed


def test_the_busiest_wire_of_rings_and_lines():
    """Counted block by block: on a ring each goes the shorter way (half and half at the middle)."""
    for size in (2, 3, 4, 8):
        ring = np.zeros((size, 2))
        line = np.zeros((size, 2))
        for source in range(size):
            for target in range(size):
                ahead = (target - source) % size
                ways = [(0, ahead)] if 2 * ahead < size else [(1, size - ahead)]
                share = 1.0
                if 2 * ahead == size:
                    ways, share = [(0, ahead), (1, ahead)], 0.5
                for way, steps in ways:
                    if steps:
                        last = (target - (1 if way == 0 else -1)) % size
                        ring[last, way] += share  # what crosses the wire into the target
                if source != target:
                    line[target, int(source > target)] += 1
        wire_s = 1 / (4 * GALAXY.link_bytes_per_s)
        assert COSTS.wire_s(size, 1, 4) == pytest.approx(ring.sum(axis=1).max() / 2 * wire_s)
    slow = Costs(replace(GALAXY, topology="line"))
    assert slow.wire_s(4, 1, 4) == pytest.approx(3 * wire_s)


def run(*charges, mesh="1x1", costs=COSTS, slow=(), links=(), capacity_bytes=None):
    """Return the figures of a program of charges, and the time of each chip, (R, C)."""
    mesh = Mesh.parse(mesh)
    slowness = Slowness.parse(slow, links, mesh)
    tape = tape_of(costs, *charges, capacity_bytes=capacity_bytes)
    timing = MeshClock(tape, mesh, slowness).run([0] * mesh.cols)
    chips = play_chips(tape, mesh, slowness)
    now = np.array([chip.now for chip in chips]).reshape(mesh.rows, mesh.cols)
    assert timing.seconds == now.max()
    return timing, now


def play_chips(tape, mesh, slowness, positions=None):
    """Play the clocks of all chips of a run, each told when the others of its group entered."""
    chips = [ChipClock(tape, mesh, rank, slowness) for rank in range(mesh.n_chips)]
    for chip in chips:
        chip.start(positions or [0] * mesh.cols)
    for charge in tape.crosses:
        if charge.rides:
            continue
        axis, entries = charge.wire.axis, {}
        for rank, chip in enumerate(chips):
            group = tuple(mesh.group(rank, axis))
            times = entries.setdefault(group, np.zeros(len(group)))
            chip.enter(times, mesh.index(rank, axis))
        for rank, chip in enumerate(chips):
            chip.leave(entries[tuple(mesh.group(rank, axis))])
    for chip in chips:
        chip.finish()
    return chips


def test_a_collective_waits_for_the_farthest_and_the_latest():
    """Chip 0 works for 1 s, the others for half as long; then 0.25 s of collective, and hops."""
    _, now = run(
        Kernel("work", 0.5, 1, has_gap=False),
        cross("gather", Axis.ROW, 0.2, 0.05),
        mesh="1x4",
        slow=["0,0,2"],
    )
    hop, gap = GALAXY.link_hop_s, GALAXY.op_gap_s
    expected = 1.0 + np.array([0.45, 0.25, 0.25, 0.25]) + np.array([0, 1, 2, 1]) * hop + gap
    np.testing.assert_allclose(now[0], expected, rtol=0, atol=1e-12)


def test_a_barrier_goes_round_before_the_data_does():
    once, twice = (
        run(cross("gather", Axis.ROW, 0.0, 0.0, laps=laps), mesh="1x4")[0].seconds
        for laps in (1, 2)
    )
    assert twice - once == pytest.approx(2 * GALAXY.link_hop_s)


def test_a_column_does_not_wait_for_another_column():
    work = Kernel("work", 0.5, 1)
    _, now = run(work, cross("gather", Axis.COLUMN, 0.0, 0.0), mesh="2x2", slow=["0,0,2"])
    assert (now[:, 0] >= 1.0).all()
    assert (now[:, 1] < 0.6).all()


def test_a_slow_link_slows_its_group_only():
    gather = cross("gather", Axis.ROW, 0.0, 1.0)
    _, now = run(gather, mesh="2x2", links=["1,0,row,3"])
    assert (now[0] < 1.1).all()
    assert (now[1] > 3.0).all()


def test_the_prefetcher_stalls_as_its_recurrence_says():
    """Three weights of 600 bytes through a buffer of 1000: each waits for the one before."""
    costs = Costs(replace(GALAXY, dram_bytes_per_s=100.0, op_gap_s=1e-9))

    def matmul(seconds):
        return Kernel("matmul", seconds, 24, has_gap=False)

    def now_behind(*charges):
        return run(*charges, costs=costs, capacity_bytes=1000)[1][0, 0]

    charges = [Take(600)]
    assert now_behind(*charges) == 6.0  # read from 0 to 6
    charges += [matmul(1.0), Consumed(), Take(600)]
    assert now_behind(*charges) == 13.0  # room from 7, read from 7 to 13
    charges += [matmul(10.0), Consumed(), Take(300)]
    timing, now = run(*charges, costs=costs, capacity_bytes=1000)
    assert now[0, 0] == 23.0  # 300 fit beside 600: read from 13 to 16, no stall
    assert timing.stall_s == timing.by_op_s["prefetch_stall"] == 12.0
    assert timing.by_op_s["matmul"] == 11.0
    assert timing.core_s == 24 * 11.0


def test_work_beside_a_collective_is_hidden_by_it_or_hides_it():
    hidden = cross("both", Axis.ROW, 1.5, 0.5, beside_s=1.0)
    assert run(hidden)[0].seconds == pytest.approx(2.0 + GALAXY.op_gap_s)
    hides = cross("both", Axis.ROW, 1.0, 0.0, beside_s=2.0)
    assert run(hidden, hides)[0].seconds == pytest.approx(4.0 + 2 * GALAXY.op_gap_s)


def test_a_weight_may_leave_between_a_collective_and_the_one_that_rides_with_it():
    first, second = (
        cross("both", Axis.ROW, own_s, 0.5, key="GATE_UP", rides=own_s > 0, beside_s=1.0)
        for own_s in (0.0, 0.25)
    )
    timing, now = run(
        Kernel("work", 1.0, 1), Take(100), (first, Consumed(), second), mesh="1x4", slow=["0,2,1.5"]
    )
    assert timing.seconds == now.max() > 1.5 + 1.5  # the slow chip's work and what is beside it
    with pytest.raises(AssertionError, match="rides, but not behind a collective of its axis"):
        run(first, Kernel("work", 1.0, 1), second)


@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x2", "3x2", "8x4"])
@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("slow", [False, True])
def test_chips_that_know_each_other_by_messages_agree_with_all_at_once(mesh, system, slow):
    """To the last bit; columns are at different positions, one has no user."""
    mesh = Mesh.parse(mesh)
    last = f"{mesh.rows - 1},{mesh.cols - 1}"
    asked = Slowness.parse(*(([f"{last},1.7"], [f"{last},row,3"]) if slow else ([], [])), mesh)
    model = replace(PRESETS["smollm2-135m"], n_layers=2)
    emulated = system_of(system, mesh)
    programs = Programs(model, mesh, emulated, PRECISIONS["performance"], users=8)
    slowness = asked.moved(mesh, programs.mesh)
    costs = Costs(programs.on(GALAXY))
    positions = [-1, 500, 40, 3000][-programs.mesh.cols :]
    for program in (programs.decode(), programs.prefill(PassShape.of_prompt(1500))):
        tape = Tape(program, costs)
        timing = MeshClock(tape, programs.mesh, slowness).run(positions)
        chips = play_chips(tape, programs.mesh, slowness, positions)
        assert timing.seconds == max(chip.now for chip in chips)
        assert timing.stall_s == max(chip.stall_s for chip in chips)
        own = chips[0].timing()
        assert own == replace(timing, seconds=own.seconds, stall_s=own.stall_s)


def test_where_no_chip_differs_one_is_evaluated_and_bits_are_those_of_all():
    model = replace(PRESETS["llama3-70b"], n_layers=3)
    mesh = Mesh(8, 4)
    galaxy, formats = system_of("galaxy", mesh), PRECISIONS["performance"]
    programs = Programs(model, mesh, galaxy, formats, users=32)
    for program in (programs.decode(), programs.prefill(PassShape.of_prompt(5000))):
        clock = MeshClock(Tape(program, COSTS), mesh)
        positions = [700] * 4
        assert clock.run(positions) == clock.run(positions, Trace(mesh))


def test_a_collective_that_is_never_entered_is_an_error():
    tape = tape_of(COSTS, cross("wo", Axis.COLUMN, 1.0, 0.5), cross("ff2", Axis.COLUMN, 1.0, 0.5))
    clock = ChipClock(tape, Mesh(2, 2), 0)
    clock.start()
    clock.leave(np.array([1.0, 4.0]))
    assert clock.now == 4.0 + GALAXY.link_hop_s + 1.5 + GALAXY.op_gap_s
    with pytest.raises(
        CollectiveError, match="expects all_gather FF2 within a column.*never entered"
    ):
        clock.finish()
    clock.leave(np.array([9.0, 9.0]))
    clock.finish()
    with pytest.raises(CollectiveError, match="ended where device time expects the end"):
        clock.leave(np.array([9.0, 9.0]))


def test_the_first_exchange_of_an_op_is_charged_and_no_other():
    gather, other = cross("gather", Axis.COLUMN, 1.0, 0.5), cross("other", Axis.COLUMN, 1.0, 0.5)
    program = program_of(gather, gather)
    clock = ChipClock(Tape(program, COSTS), Mesh(2, 2), 0)
    first, second = program.uses
    assert clock.is_charged(first, gather.wire)
    assert not clock.is_charged(first, gather.wire)  # a slab further on
    assert clock.is_charged(second, gather.wire)
    assert not clock.is_charged(second, other.wire)  # a group that the system skips


def attention_s(users, position, *, kv_heads=1, tile_bytes=BFP8, cores=32, slots=8):
    shape = (users, 8, kv_heads, 128, position, tile_bytes, 2e12)
    return COSTS.attention_s(*shape, cores=cores, slots=slots, most_tiles=8, passes=0.4)


ATTENTION_S = GALAXY.launch_s + GALAXY.stage_s + GALAXY.dram_round_trip_s
"""Before attention reads the cache: positions and page table are read first."""


def test_attention_takes_chunks_of_up_to_256_positions():
    """Four cores a user: one chunk, two on two cores, then five of 256 on four cores."""
    m = GALAXY
    chunk_s = 2 * 8 * 4 * BFP8 / m.attention_bytes_per_core_s  # keys and values of 256 positions
    for position, in_turn, merges in ((255, 1, 0), (256, 1, 1), (1023, 1, 2), (1024, 2, 2)):
        expected_s = ATTENTION_S + merges * m.attention_merge_s + in_turn * chunk_s
        assert attention_s(1, position) == pytest.approx(expected_s), position
    assert attention_s(1, 127) == attention_s(1, 96) < attention_s(1, 128)


def test_attention_of_many_users_is_bound_by_what_one_kv_head_reads():
    """Two of a user's four cores read as fast as DRAM gives, and merge once."""
    many = attention_s(8, 131_071)
    n_bytes = 8 * 131_072 * 2 * 128 * BFP8 / 1024
    rate = GALAXY.dram_bytes_per_s * GALAXY.attention_dram_share
    assert many == pytest.approx(n_bytes / rate + ATTENTION_S + GALAXY.attention_merge_s)
    assert many.bound is Bound.DRAM
    assert attention_s(8, 4095, tile_bytes=BFP4) < attention_s(8, 4095)
    assert attention_s(8, 4095) < attention_s(8, 4095, tile_bytes=2048)


def test_an_op_of_prefill_does_not_begin_before_the_host_has_issued_it():
    """Three short ops wait for the host; behind a long one the host is ahead."""
    issue, gap = GALAXY.prefill_op_s, GALAXY.op_gap_s
    short, long = Kernel("short", 1e-6, 1), Kernel("long", 10 * issue, 1)
    for charges, expected_s in (
        ((short, short, short), 3 * issue),
        ((long, short, short), 10 * issue + 2e-6 + 3 * gap),
    ):
        program = program_of(*charges)
        program.mode = "prefill"
        tape = Tape(program, COSTS)
        assert MeshClock(tape, Mesh(1, 1)).run().seconds == pytest.approx(expected_s)


def test_hops_hide_behind_what_streams():
    """The later of the nearest data and the whole wire, and the farthest and its last block."""
    hop, gap = GALAXY.link_hop_s, GALAXY.op_gap_s
    slow_wire = cross("gather", Axis.ROW, 0.0, 1e-3, block_s=1e-4)
    assert run(slow_wire, mesh="1x4")[0].seconds == pytest.approx(hop + 1e-3 + gap)
    fast_wire = cross("gather", Axis.ROW, 0.0, 1e-9, block_s=1e-10)
    assert run(fast_wire, mesh="1x4")[0].seconds == pytest.approx(2 * hop + 1e-10 + gap)


def test_cores_follow_the_clock_and_dram_and_links_do_not(tmp_path):
    slower = Machine.load(profile(tmp_path, lambda c: c["constants"]["clock_hz"].update(value=5e8)))
    assert slower.launch_s == 2 * GALAXY.launch_s
    assert slower.lofi_flops_per_core_s == GALAXY.lofi_flops_per_core_s / 2
    assert slower.dram_bytes_per_s == GALAXY.dram_bytes_per_s
    assert slower.link_hop_s == GALAXY.link_hop_s
    assert Machine.load("wormhole_galaxy_4u").clock_hz == 9e8


def prefill_attention_s(queries, pairs, **changes):
    kinds = {"chunk": 64, "passes": 0.0, "tile_bytes": BFP8} | changes
    return COSTS.prefill_attention_s(pairs, queries, 8, 128, 1e12, 0.0, **kinds)


def test_each_chunk_of_queries_reads_all_keys_and_values_it_sees_again():
    """8,192 queries behind 57,344 keys, by 64: 128 chunks of each of 8 heads, 272 bytes a key."""
    seen = 8192 * 57_344
    short = prefill_attention_s(8192, seen)
    read = 8 * 128 * 57_344 * 2 * 128 * BFP8 / 1024
    assert short == pytest.approx(GALAXY.launch_s + read / GALAXY.chunk_read_bytes_per_s)
    assert short.bound is Bound.DRAM
    assert prefill_attention_s(8192, seen, chunk=256).bound is Bound.FLOPS


def test_whole_chunks_of_queries_are_cut_over_the_cores():
    """On 70 cores, 8 heads of 8 chunks take a turn, 8 heads of 9 take two."""
    one, two = (
        prefill_attention_s(64 * n, 1e6 * n, chunk=64, passes=50.0) - GALAXY.launch_s
        for n in (8, 9)
    )
    assert two == pytest.approx(2 * one)


def test_a_cache_write_takes_one_kv_head_after_the_other():
    first, eighth = COSTS.update_cache_s(1), COSTS.update_cache_s(8)
    assert first == pytest.approx(GALAXY.launch_s + 2 * GALAXY.dram_round_trip_s)
    assert eighth - first == pytest.approx(7 * GALAXY.dram_round_trip_s)
