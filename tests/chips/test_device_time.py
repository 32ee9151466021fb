"""Device time of runs with values, against `Estimator` for the same positions and passes."""

import csv
import json
from dataclasses import replace

import pytest

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.report_text import report_text
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.studies.whole_run import run_all, run_one
from galaxy_mpi.systems import PassShape
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator
from tests.chips import playing
from tests.prompts import prompt_of

MACHINE = Machine.load("wormhole_galaxy_6u")
RUN = RunConfig(max_new_tokens=4, batch=8, mesh=Mesh(2, 2), prompt_tokens=((1,),))


def play(run):
    """Return the report and the model of a run."""
    report, engine = playing.play(run)
    return report, engine.plan.model


def estimator_of(run, model):
    precision = run.wanted.on(run.emulated_system, model)
    programs = Programs(model, run.mesh, run.emulated_system, precision, users=run.batch)
    return Estimator(programs, MACHINE, slowness=run.slowness)


def prompts(*lengths):
    return tuple(prompt_of(length, seed) for seed, length in enumerate(lengths))


@pytest.mark.parametrize("mesh", ["1x1", "1x2", "2x2", "4x1"])
@pytest.mark.parametrize("slow", [False, True])
def test_a_run_takes_what_is_estimated_to_the_last_bit(mesh, slow):
    """With a slow chip and a slow link the chips of a group enter at different times."""
    run = replace(RUN, mesh=Mesh.parse(mesh), prompt_tokens=prompts(*[20] * 8))
    if slow:
        last = f"{run.mesh.rows - 1},{run.mesh.cols - 1}"
        run = replace(run, slow_chips=(f"{last},1.7",), slow_links=(f"{last},row,3",))
    report, model = play(run)
    estimator = estimator_of(run, model)
    expected, found = run_one(estimator, 20, 3, 8), report.device.times
    assert found.step_s == expected.step_s
    assert found.steps.by_op_s == expected.steps.by_op_s
    assert found.prefetch_stall_s == expected.prefetch_stall_s
    assert found.steps.dram_bytes == expected.steps.dram_bytes
    assert found.steps.by_bound_s == expected.steps.by_bound_s
    assert found.steps.link_bytes == expected.steps.link_bytes
    assert found.first_token_s[0] == expected.first_token_s[0]
    assert found.first_token_s[7] == pytest.approx(8 * expected.first_token_s[0])
    if slow:
        plain, _ = play(replace(run, slow_chips=(), slow_links=()))
        assert found.now_s > plain.device.times.now_s


@pytest.mark.parametrize(
    ("lengths", "lines"),
    [((1100, 130), False), ((1100, 130), True), ((4097,), False)],
)
def test_long_prefills_of_any_kind_take_what_is_estimated(lengths, lines):
    """Queries cut over the columns, slabs, gathers fused with a matmul; rings and lines."""
    run = replace(
        RUN,
        prompt_tokens=prompts(*lengths),
        max_new_tokens=1,
        slow_chips=("1,0,2",),
        line_reduce_scatter=lines,
        line_all_gather=lines,
    )
    report, model = play(run)
    estimator = estimator_of(run, model)
    assert report.device.times.now_s == sum(
        estimator.prefill(PassShape.of_prompt(n)).seconds for n in lengths
    )


def _behind_prefix_s(run):
    """Return the seconds of a pass of one token behind 256 that are cached."""
    estimator = estimator_of(run, play(run)[1])
    return estimator.prefill(PassShape((32,), (0,), 1, 128, start=256)).seconds


def test_a_prefix_from_the_cache_is_charged_as_a_pass_behind_it():
    shared = prompt_of(256, 1)
    run = replace(RUN, prompt_tokens=((*shared, 5), (*shared, 6)), max_new_tokens=1)
    report, _ = play(run)
    assert [request.n_cached for request in report.requests] == [0, 256]
    first, second = (report.device.times.first_token_s[n] for n in (0, 1))
    # A tiny model's passes take what the host takes to issue their ops; behind a prefix is one
    # all-reduce more. What matters is that the run is charged for the pass that it made.
    assert second - first == pytest.approx(_behind_prefix_s(run), rel=1e-9)


def test_float32_has_no_device_time():
    exact, _ = play(replace(RUN, precision="float32"))
    assert exact.to_dict()["device"] is None
    assert "device:" not in report_text(exact, show_all=False)


def test_a_run_of_all_users_is_what_is_estimated_of_all_users():
    """Twenty short prompts go through one pass, side by side."""
    run = replace(RUN, mesh=Mesh(1, 2), batch=20, prompt_tokens=prompts(*[20] * 20))
    report, model = play(run)
    estimator = estimator_of(run, model)
    expected = run_all(estimator, 20, 3, 20)
    assert report.device.times.to_dict() == expected.to_dict()
    side_by_side = PassShape((32,) * 20, (0,) * 10 + (1,) * 10, 20, 128)
    assert expected.first_token_s[19] == estimator.prefill(side_by_side).seconds


def test_the_summary_shows_both_clocks():
    report, _ = play(RUN)
    text = report_text(report, show_all=False)
    assert "host: decode step" in text
    for what in ("decode step", "tokens/s/user", "time to first token", "share of peak"):
        assert f"device: {what}" in text
    assert "op of a decode step" in text
    figures = report.to_dict()["device"]
    assert 0 < figures["flops_utilization"] < 1
    # Ops are told of chip (0, 0); the column without a user has the last data a hop later.
    assert sum(figures["by_op_s"].values()) == pytest.approx(figures["decode_step_s"], rel=0.01)
    assert figures["memory"]["dram_bytes"] > 0


def test_a_run_writes_traces_of_both_clocks_and_an_op_report(tmp_path):
    paths = [tmp_path / name for name in ("device.json", "host.json", "ops.csv", "out.json")]
    device, host, ops, out = paths
    run = replace(
        RUN,
        max_new_tokens=7,
        trace_path=device,
        host_trace_path=host,
        profile_path=ops,
        json_path=out,
        prompt_tokens=prompts(*[20] * 8),
    )
    report, _ = play(run)
    report.write_files()
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    events = json.loads(device.read_text())["traceEvents"]
    last = max(e["ts"] + e["dur"] for e in events if e["ph"] == "X") * 1e-6
    times = report.device.times
    assert last == pytest.approx(8 * times.first_token_s[0] + sum(times.step_s[:4]))
    content = json.loads(host.read_text())
    assert content["otherData"] == {"schema_version": 3, "clock": "host"}
    spans = [e for e in content["traceEvents"] if e["ph"] == "X"]
    assert min(e["ts"] for e in spans) == 0
    of_rank = [e for e in spans if e["pid"] == 0 and e["tid"] == 0]
    steps = [e["name"] for e in of_rank if e["name"].startswith(("prefill", "decode"))]
    assert steps == [f"prefill {n}" for n in range(1, 9)] + [f"decode {n}" for n in range(1, 5)]
    rows = list(csv.DictReader(ops.open()))
    signposts = [row["OP CODE"] for row in rows if row["OP TYPE"] == "signpost"]
    assert signposts == steps
    rows = [row for row in rows if row["OP TYPE"] != "signpost"]
    assert {row["DEVICE ID"] for row in rows} == {"0", "1", "2", "3"}
