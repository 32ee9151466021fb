"""Times of very many steps and passes are those of one at a time, to the last bit."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PRECISIONS, PassShape, system_of
from galaxy_mpi.systems.prefill_pass import padded_length
from galaxy_mpi.timing import Machine, Slowness
from galaxy_mpi.timing.estimator import Estimator

SLOW = Slowness({(1, 0): 1.3}, {(0, 1, Axis.ROW): 2.0})

KINDS = {
    "galaxy": ("galaxy", "wormhole_galaxy_6u", "8x4", {}, Slowness()),
    "line": ("galaxy", "wormhole_galaxy_6u", "8x4", {"topology": "line"}, Slowness()),
    "generic": ("tt_transformers", "wormhole_galaxy_6u", "8x4", {}, Slowness()),
    "row": ("tt_transformers", "t3000", "1x8", {}, Slowness()),
    "one": ("tt_transformers", "n150", "1x1", {}, Slowness()),
    "slow": ("galaxy", "wormhole_galaxy_6u", "2x4", {}, SLOW),
    "wide": ("galaxy", "wormhole_galaxy_6u", "2x8", {}, Slowness()),
    "starved": ("galaxy", "wormhole_galaxy_6u", "2x2", {"dram_bytes_per_s": 2e10}, Slowness()),
}


@cache
def estimator_of(kind):
    system, machine, mesh, changes, slowness = KINDS[kind]
    model, on = replace(PRESETS["llama3-8b"], n_layers=2), Mesh.parse(mesh)
    programs = Programs(model, on, system_of(system, on), PRECISIONS["performance"], users=32)
    return Estimator(programs, replace(Machine.load(machine), **changes), slowness=slowness)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_a_table_are_those_of_one_at_a_time(kind):
    estimator = estimator_of(kind)
    table, cols = estimator.step_table, estimator.programs.mesh.cols
    near, far = st.integers(-1, 700), st.integers(-1, 20_000)
    edges = st.sampled_from([-1, 0, 31, 32, 255, 256, 4095, 4096])

    @settings(max_examples=25, deadline=None)
    @given(st.lists(near | far | edges, min_size=cols, max_size=cols))
    def check(positions):
        expected, found = estimator.step(positions), table.step(positions)
        assert found.seconds == expected.seconds
        others = [estimator.step([position] * cols) for position in positions]
        assert found.dram_bytes == pytest.approx(sum(t.dram_bytes for t in others) / cols)
        assert found.flops == pytest.approx(sum(t.flops for t in others) / cols)

    check()


def test_steps_that_are_alike_are_evaluated_once():
    table = new_table("galaxy")
    first = table.step([600, 300, 100, 100])
    n_evaluated = table.n_evaluated
    assert table.step([601, 310, 90, 99]) is first
    assert table.step([100, 600, 300, 100]) is first  # a ring turned
    assert table.step([300, 600, 100, 100]) is first  # and mirrored
    assert table.n_evaluated == n_evaluated
    slow = new_table("slow")
    assert slow.step([300, 600, 100, 100]) is not slow.step([600, 300, 100, 100])


def new_table(kind):
    known = estimator_of(kind)
    slowness = KINDS[kind][-1]
    return Estimator(known.programs, known.machine, slowness=slowness).step_table


@st.composite
def shapes(draw, cols):
    if draw(st.booleans()):
        rows = draw(st.lists(st.sampled_from([32, 64, 96, 128]), min_size=2, max_size=20))
        columns = draw(st.lists(st.integers(0, cols - 1), min_size=len(rows), max_size=len(rows)))
        return PassShape(tuple(rows), tuple(columns), 32, 128)
    n_tokens, start = draw(st.integers(1, 3000)), draw(st.sampled_from([0, 128, 1024]))
    column = draw(st.integers(0, cols - 1))
    return PassShape((padded(n_tokens),), (column,), 1, padded_length(n_tokens), start)


def test_a_pass_is_not_taken_for_a_step():
    """32 users in 32 places of 128 positions, nothing cached; and a step at 32, 32, 128, none."""
    known = estimator_of("galaxy")
    estimator = Estimator(known.programs, known.machine)
    shape, positions = PassShape((32,) * 32, (0,) * 32, 32, 128), [31, 31, 127, -1]
    step, work = estimator.step(positions), estimator.prefill(shape)
    other = Estimator(known.programs, known.machine)
    assert (other.prefill(shape), other.step(positions)) == (work, step)
    assert work != step


@pytest.mark.parametrize("kind", ["galaxy", "generic", "row"])
def test_a_pass_takes_as_long_however_the_host_carries_it(kind):
    estimator = estimator_of(kind)

    @settings(max_examples=25, deadline=None)
    @given(shapes(estimator.programs.mesh.cols))
    def check(shape):
        kept = estimator.prefill(shape)
        assert Estimator(estimator.programs, estimator.machine).prefill(shape) == kept

    check()
