"""The device clock against sums done by hand, and against one that plays each chip by itself."""

import dataclasses
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.program import Consumed, Cross, Kernel, Program, Take
from galaxy_mpi.systems import PRECISIONS, PassShape, system_of
from galaxy_mpi.timing import Machine, Slowness
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.mesh_clock import MeshClock
from galaxy_mpi.timing.tape import Tape
from galaxy_mpi.timing.trace import Trace
from tests.charged import Charged, cross, program_of, tape_of
from tests.chip_times import play_chips, ticks

GALAXY = Machine.load("wormhole_galaxy_6u")
COSTS = Costs(GALAXY)
BFP8, BFP4 = 1088, 576


def run(*charges, mesh="1x1", costs=COSTS, slow=(), links=(), capacity_bytes=None):
    """Return the figures of a program of charges, and the time of each chip, (R, C)."""
    mesh = Mesh.parse(mesh)
    slowness = Slowness.parse(slow, links, mesh)
    tape = tape_of(costs, *charges, capacity_bytes=capacity_bytes)
    clock, positions = MeshClock(tape, mesh, slowness, notes_waits=True), [0] * mesh.cols
    _, record = clock.record(positions)
    timing = clock.run(positions)
    chips = play_chips(tape, mesh, slowness, positions)
    assert record.end_s.ravel().tolist() == [chip.now for chip in chips]
    assert timing.seconds == record.end_s.max()
    return timing, record.end_s


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
        return run(*charges, Consumed(), costs=costs, capacity_bytes=1000)[1][0, 0]

    charges = [Take(600)]
    assert now_behind(*charges) == 6.0  # read from 0 to 6
    charges += [matmul(1.0), Consumed(), Take(600)]
    assert now_behind(*charges) == 13.0  # room from 7, read from 7 to 13
    charges += [matmul(10.0), Consumed(), Take(300), Consumed()]
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


def test_waiting_for_a_slow_chip_is_noted_once_also_if_another_collective_rides():
    first = cross("both", Axis.ROW, 0.0, 0.5, key="GATE_UP")
    rider = cross("both", Axis.ROW, 0.0, 0.25, key="GATE_UP", rides=True)
    work = Kernel("work", 1.0, 1, has_gap=False)
    for charges in ((first,), (first, rider)):
        timing, _ = run(work, *charges, mesh="1x2", slow=["0,0,2"])
        assert timing.waits_s[1] == {0: pytest.approx(1.0)}
        others = timing.waits_s.get(0, {})
        assert others.get(1, 0.0) <= ticks(GALAXY.link_hop_s)  # for the signal's hop
    assert run(work, first, rider, mesh="1x2")[0].waits_s == {}


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
def test_the_clock_agrees_with_one_that_plays_each_chip_by_itself(mesh, system, slow):
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
        _, record = MeshClock(tape, programs.mesh, slowness).record(positions)
        assert record.end_s.ravel().tolist() == [chip.now for chip in chips]


@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x2", "3x2", "8x4"])
@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("positions", [[-1, 500, 40, 3000], [700] * 4])
def test_all_figures_are_the_same_with_a_trace_and_without(mesh, system, positions):
    mesh = Mesh.parse(mesh)
    model = replace(PRESETS["smollm2-135m"], n_layers=7)
    formats = PRECISIONS["performance"]
    programs = Programs(model, mesh, system_of(system, mesh), formats, users=8)
    costs = Costs(programs.on(GALAXY))
    for program in (programs.decode(), programs.prefill(PassShape.of_prompt(1500))):
        clock = MeshClock(Tape(program, costs), programs.mesh)
        at = positions[-programs.mesh.cols :]
        assert clock.run(at) == clock.run(at, Trace(programs.mesh))


def test_where_no_chip_differs_one_is_evaluated_and_bits_are_those_of_all():
    model = replace(PRESETS["llama3-70b"], n_layers=3)
    mesh = Mesh(8, 4)
    galaxy, formats = system_of("galaxy", mesh), PRECISIONS["performance"]
    programs = Programs(model, mesh, galaxy, formats, users=32)
    for program in (programs.decode(), programs.prefill(PassShape.of_prompt(5000))):
        clock = MeshClock(Tape(program, COSTS), mesh)
        positions = [700] * 4
        assert clock.run(positions) == clock.run(positions, Trace(mesh))


def test_what_is_charged_must_be_what_was_bound():
    wo, ff2 = cross("wo", Axis.COLUMN, 1.0, 0.5), cross("ff2", Axis.COLUMN, 1.0, 0.5)
    other = cross("other", Axis.COLUMN, 1.0, 0.5)
    rider = cross("ff3", Axis.COLUMN, 1.0, 0.5, rides=True)
    tape = tape_of(COSTS, wo, (ff2, rider))
    first, second, mesh = tape.uses[0], tape.uses[1], Mesh(2, 2)
    bound = [(first, wo.wire), (second, ff2.wire)]
    tape.check(bound, mesh)
    with pytest.raises(ProgramError, match="all_gather OTHER .* charges no device time for it"):
        tape.check([bound[0], (first, other.wire), bound[1]], mesh)
    first.op.free = (other.wire,)
    tape.check([bound[0], (first, other.wire), bound[1]], mesh)
    for wrong in ([bound[0]], [], bound[::-1], [bound[0], (first, ff2.wire)]):
        with pytest.raises(ProgramError, match="charges device time for all_gather .* fix the op"):
            tape.check(wrong, mesh)
    with pytest.raises(
        ProgramError, match="all_gather WO .* 2 times, but charges device time for 1"
    ):
        tape.check([bound[0], bound[0], bound[1]], mesh)
    twice = tape_of(COSTS, (wo, wo))
    twice.check([(twice.uses[0], wo.wire)] * 2, mesh)
    with pytest.raises(ProgramError, match="as sent along with another collective"):
        tape.check([*bound, (second, rider.wire)], mesh)


def test_an_op_that_exchanges_and_charges_no_exchange_is_an_error_unless_it_is_alone():
    tape = tape_of(COSTS, Kernel("work", 1.0, 1))
    bound = [(tape.uses[0], cross("free", Axis.COLUMN, 1.0, 0.5).wire)]
    with pytest.raises(ProgramError, match="all_gather FREE .* charges no device time .* fix"):
        tape.check(bound, Mesh(2, 2))
    tape.check(bound, Mesh(1, 2))  # a column of one chip


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_charge_that_is_no_time_is_an_error(seconds):
    with pytest.raises(ProgramError, match=r"wrong.*(nan|inf|-1).*charges"):
        tape_of(COSTS, Kernel("wrong", seconds, 1))
    with pytest.raises(ProgramError, match=r"wrong.*(nan|inf|-1).*charges"):
        tape_of(COSTS, cross("wrong", Axis.ROW, 1.0, seconds))


WIRE = cross("some", Axis.ROW, 1.0, 0.5).wire


@pytest.mark.parametrize(
    ("charges", "said"),
    [
        (("work", 1.0, 1), "'work', which is none of Kernel, Cross, Take, Consumed"),
        ((Kernel("work", 1.0, None),), "work with cores None"),
        ((Kernel("work", 1.0, -2),), "work with cores -2"),
        ((Kernel("work", None, 1),), "work with seconds None"),
        ((Kernel(1.0, 1.0, 1),), "name 1.0, which is no text"),
        ((Cross("sum", WIRE, "1", 0.5),), "sum with own_s '1'"),
        ((Cross("sum", "WO", 1.0, 0.5),), "sum with wire 'WO', which is no Wire"),
        ((Take(600), Take(600), Consumed()), "Take for a weight that no Consumed releases"),
        ((Take(600), Consumed(), Consumed()), "Consumed for a weight that no Take charged"),
        ((Take(-1), Consumed()), "a weight with n_bytes -1"),
    ],
)
def test_what_is_no_charge_is_an_error_that_names_the_op(charges, said):
    with pytest.raises(ProgramError, match=re.escape(said)) as caught:
        tape_of(COSTS, charges)
    assert "op charged of the head" in str(caught.value)


def test_an_error_in_charges_names_the_op():
    class Changed(Charged):
        def charges(self, costs):
            yield dataclasses.replace(Kernel("work", 1.0, 1), cores=2)

    program = Program()
    Changed().record(program, ())
    with pytest.raises(TypeError) as caught:
        Tape(program, COSTS)
    if sys.version_info >= (3, 11):
        (note,) = caught.value.__notes__
        assert "`charges` of op charged (Changed)" in note
        assert "charge._replace" in note


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
