"""Device time of whole runs: against what was published, and what must follow from a change."""

import json
from dataclasses import replace

import pytest

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.validation import compare
from galaxy_mpi.systems import PRECISIONS, PassShape, Wanted, system_of
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.published import CALIBRATION, read_measurements

GALAXY = Machine.load("wormhole_galaxy_6u")


def estimator_of(model, machine, mesh, *, users=32, prefetch=True, **changes):
    system, precision = system_of("galaxy", mesh), PRECISIONS["performance"]
    programs = Programs(model, mesh, system, precision, users=users, prefetch=prefetch)
    return Estimator(programs, machine, **changes)


def step_s(*, position=127, model="llama3-70b", machine=GALAXY, mesh="8x4", **changes):
    estimator = estimator_of(PRESETS[model], machine, Mesh.parse(mesh), **changes)
    return estimator.step([position] * Mesh.parse(mesh).cols).seconds


def test_published_times_are_reproduced():
    """The bars: ops 5 % on the mean, end to end 2 %, and no op off by more than 15 %."""
    rows = compare(read_measurements(CALIBRATION), is_calibration=True)
    missing = [row.measurement.name for row in rows if row.error is None]
    assert missing == ["plus_one"]
    known = [row for row in rows if row.error is not None]
    whole = [abs(r.error) for r in known if r.measurement.kind in ("decode", "prefill")]
    ops = [abs(r.error) for r in known if r.measurement.kind in ("layer", "tail")]
    assert sum(whole) / len(whole) <= 0.02
    assert sum(ops) / len(ops) <= 0.05
    assert max(ops) <= 0.15


def test_the_same_run_takes_the_same_time_to_the_last_bit():
    assert step_s() == step_s()


def test_what_must_be_slower_is_slower():
    plain = step_s()
    assert step_s(machine=replace(GALAXY, links=3)) > plain
    assert step_s(machine=replace(GALAXY, topology="line")) > plain
    assert step_s(prefetch=False) > plain
    assert step_s(position=4000) > plain
    assert step_s(machine=replace(GALAXY, dram_bytes_per_s=100e9)) > plain
    # The second largest weight does not fit beside the largest: nothing is read ahead.
    assert step_s(circular_buffer_bytes=9_000_000) > plain
    assert step_s(model="llama3-8b") < plain


def test_slow_memory_shows_as_stalls():
    machine = replace(GALAXY, dram_bytes_per_s=100e9)
    estimator = estimator_of(PRESETS["llama3-70b"], machine, Mesh(8, 4))
    timing = estimator.step([127] * 4)
    read_s = 80 * 23.46e6 / 100e9
    assert timing.seconds == pytest.approx(read_s, rel=0.07)  # and caches, and the tail
    assert timing.stall_s > 0.2 * timing.seconds


@pytest.mark.parametrize("mesh", ["1x1", "1x2", "2x4", "8x4"])
def test_any_mesh_has_a_time_and_more_chips_take_less(mesh):
    assert 0 < step_s(mesh=mesh, model="llama3-8b") <= step_s(mesh="1x1", model="llama3-8b")


def test_the_longest_prompt_takes_seconds_of_device_time_and_few_of_host_time():
    estimator = estimator_of(PRESETS["llama3-70b"], GALAXY, Mesh(8, 4))
    long_s, short_s = (estimator.prefill(PassShape.of_prompt(n)).seconds for n in (131_072, 4096))
    assert long_s > 32 * short_s  # attention grows faster than the rest


def test_bytes_of_a_link_are_those_of_the_collectives():
    """By hand, a layer of Llama-70B; on 4 links but for the statistics, (n - 1) / 2 blocks."""
    model = replace(PRESETS["llama3-70b"], n_layers=1)
    estimator = estimator_of(model, GALAXY, Mesh(8, 4))
    found = estimator.step([127] * 4).link_bytes
    all_reduces = 2 * 3.5 * 64 * 1088 / 4
    candidates = 2 * 3.5 * 2048
    assert found["column"] == pytest.approx(all_reduces + candidates)
    norms, heads, concat = 3 * 2048, 8 * 1280 * 2 / 4, 8 * 1024 * 2 / 4
    feed_forward, logits = 3 * 28 * 1088 / 4, 512 * 1088 / 4
    assert found["row"] == pytest.approx(1.5 * (norms + heads + concat + feed_forward + logits))


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
def test_users_of_one_length_take_as_long_side_by_side_wherever_their_caches_are(system):
    mesh = Mesh(2, 2)
    model, formats = replace(PRESETS["llama3-8b"], n_layers=2), PRECISIONS["performance"]
    programs = Programs(model, mesh, system_of(system, mesh), formats, users=32)
    estimator = Estimator(programs, GALAXY)
    shapes = [PassShape((32,) * 20, columns, 32, 128) for columns in ((0,) * 20, (0, 1) * 10)]
    first, second = (estimator.prefill(shape) for shape in shapes)
    assert first == second
    assert first.seconds > estimator.prefill(PassShape.of_prompt(20)).seconds


def test_programs_that_were_not_asked_for_are_forgotten():
    mesh, formats = Mesh(2, 2), PRECISIONS["performance"]
    model = replace(PRESETS["llama3-8b"], n_layers=1)
    programs = Programs(model, mesh, system_of("galaxy", mesh), formats, users=32)
    first, decode = programs.prefill(PassShape.of_prompt(1)), programs.decode()
    for n_tokens in range(33, 33 + 32 * 20, 32):
        programs.prefill(PassShape.of_prompt(n_tokens))
        assert programs.decode() is decode
    again = programs.prefill(PassShape.of_prompt(1))
    assert again is not first
    assert again is programs.prefill(PassShape.of_prompt(32))


def test_layers_of_equal_formats_share_their_ops(tmp_path):
    path = tmp_path / "formats.json"
    entry = {"precision_cfg": {"ff2": "bfp4"}}
    path.write_text(json.dumps({"decoders": {"default": entry, "1": {}}}))
    mesh, model = Mesh(2, 2), replace(PRESETS["llama3-8b"], n_layers=4)
    different = json.dumps({"decoders": {"2": entry}})
    for text, n_kinds in ((path.read_text(), 1), (different, 2)):
        path.write_text(text)
        system = system_of("galaxy", mesh)
        formats = Wanted(optimizations=path).on(system, model)
        programs = Programs(model, mesh, system, formats, users=32)
        kinds = {use.op for use in programs.decode().uses if use.op.name == "gate_up"}
        assert len(kinds) == n_kinds
