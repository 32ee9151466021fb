"""The second system, with values: tokens, device time, and the way from one system to the other."""

import json
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.ccl import Kind, Wire
from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.engine.modes import DecodeMode
from galaxy_mpi.generator import Generator, create_model
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.studies.comparison import device_figures, rows_of, to_dict
from galaxy_mpi.studies.host_steps import host_figures
from galaxy_mpi.studies.ideas import variants
from galaxy_mpi.studies.whole_run import run_one
from galaxy_mpi.systems import PassShape, Wanted
from galaxy_mpi.systems.ops.add_norm import FusedAddNorm
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator
from tests.chips.playing import connect, play, report_of
from tests.families import FAMILIES, random_prompts, write_family
from tests.prompts import prompt_of
from tests.reference import greedy_tokens

MACHINE = Machine.load("wormhole_galaxy_6u")
RUN = RunConfig(
    system="tt_transformers",
    max_new_tokens=4,
    batch=8,
    mesh=Mesh(2, 2),
    prompt_tokens=tuple(prompt_of(20, seed) for seed in range(8)),
    cache_blocks=128,
)


def estimator_of(run, engine):
    """Return what estimates a run of 8 users."""
    plan = engine.plan
    programs = Programs(plan.model, run.mesh, run.emulated_system, plan.precision, users=8)
    return Estimator(programs, MACHINE, slowness=run.slowness)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write_family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_tokens_are_those_of_transformers(folders, name, mesh):
    prompts = random_prompts(5)
    run = RunConfig(
        model=str(folders[name]),
        system="tt_transformers",
        precision="float32",
        mesh=Mesh.parse(mesh),
        prompt_tokens=prompts,
        max_new_tokens=6,
        cache_blocks=64,
    )
    assert report_of(run).tokens == greedy_tokens(folders[name], [list(p) for p in prompts], 6)


@pytest.mark.parametrize("mesh", ["1x1", "1x2", "2x2", "4x1"])
@pytest.mark.parametrize("lengths", [(20,) * 8, (1100, 130), (4097,)])
def test_device_time_is_what_is_estimated(mesh, lengths):
    slow = "0,0,1.5" if mesh == "1x1" else "0,1,1.5" if mesh != "4x1" else "1,0,1.5"
    run = replace(
        RUN,
        mesh=Mesh.parse(mesh),
        prompt_tokens=tuple(prompt_of(n, seed) for seed, n in enumerate(lengths)),
        max_new_tokens=4 if lengths[0] == 20 else 1,
        slow_chips=(slow,),
    )
    report, engine = play(run)
    estimator, found = estimator_of(run, engine), report.device.times
    if lengths[0] == 20:
        assert found.step_s == run_one(estimator, 20, 3, 8).step_s
        assert found.steps.by_op_s == run_one(estimator, 20, 3, 8).steps.by_op_s
    else:
        assert found.now_s == sum(
            estimator.prefill(PassShape.of_prompt(n)).seconds for n in lengths
        )


def test_slow_chips_and_wires_of_a_row_are_those_that_were_named():
    """A 1x4 mesh works as four rows of one chip; its coordinates stay those of the user."""
    run = replace(RUN, mesh=Mesh(1, 4), slow_chips=("0,3,2",), slow_links=("0,3,row,3",))
    assert run.working_mesh == Mesh(4, 1)
    assert run.slowness.chips == {(3, 0): 2}
    assert [(*chip, axis.group_name) for *chip, axis in run.slowness.links] == [(3, 0, "column")]


def test_a_prefix_is_found_again_on_a_row_and_on_a_mesh():
    shared = prompt_of(256, 1)
    for mesh in ("1x2", "2x2"):
        run = replace(
            RUN,
            mesh=Mesh.parse(mesh),
            prompt_tokens=((*shared, 5), (*shared, 6)),
            precision="accuracy",
        )
        cached = report_of(run)
        again = report_of(replace(run, prefix_caching=False))
        assert [request.n_cached for request in cached.requests] == [0, 256]
        assert cached.tokens == again.tokens


def test_every_step_from_one_system_to_the_other_gives_the_same_tokens():
    run = replace(RUN, system="galaxy", precision="float32")
    found = variants(run.mesh)

    with connect(run) as engine:
        host, model = host_figures(engine, found, 1), engine.plan.model
    assert len(host) == len(found)
    assert len({figures.tokens for figures in host}) == 1
    assert len(host[0].tokens) == 8
    device = device_figures(
        found, model, MACHINE, run.mesh, Wanted("accuracy"), users=8, position=20
    )
    records = to_dict(rows_of(found, device, host))
    assert {record["host_allocations"] for record in records} == {0}
    assert all(record["host_step_s"] > 0 for record in records)


def test_a_new_op_is_one_class_and_one_replace_with_values_too():
    """A norm that first tells all rows which row it is in: the same candidates, one more wire."""
    seen = []

    class CountedNorm(FusedAddNorm):
        word = Wire("COUNT", Axis.COLUMN, Kind.ALL_GATHER, FLOAT32, (1, 1))

        def wires(self):
            return (self.word, *super().wires())

        def charges(self, costs):
            yield from self.cross(costs, self.word, name="all_gather_count")
            yield from super().charges(costs)

        def bind(self, chip, x, residual, gain):
            word = chip.collective(self.word)
            chip.call(word.term.fill, chip.row)
            rows = word.cross()
            chip.call(lambda: seen.append((chip.rank, rows.ravel().tolist())))
            return super().bind(chip, x, residual, gain)

    with connect(replace(RUN, system="galaxy")) as engine:
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
        tables = {column: scheduler.page_table(column) for column in engine.chips.columns}
        galaxy = engine.programs.system
        counted = replace(galaxy, decode=replace(galaxy.decode, add_norm=CountedNorm))
        found = []
        for system in (galaxy, counted):
            mode = DecodeMode(engine.chips, engine.programs.of(system), None)
            ready = mode.run(scheduler.tokens, tables)
            found.append([ready.results(name)[0].tobytes() for name in ("values", "tokens")])
        plain, more = (
            Estimator(engine.programs.of(system), MACHINE).step([20, 20])
            for system in (galaxy, counted)
        )
    assert found[0] == found[1]
    n_norms = 2 * engine.plan.model.n_layers + 1
    assert sorted(seen) == sorted([(rank, [0.0, 1.0]) for rank in range(4)] * n_norms)
    assert more.seconds - plain.seconds == pytest.approx(more.by_op_s["all_gather_count"])


def test_layers_have_the_formats_of_the_file(tmp_path):
    path = tmp_path / "mixed.json"
    entry = {
        "precision_cfg": {
            "kv_cache": "bf16",
            "wqkv": "bf16",
            "ff1_3": "bfp8",
            "activation": "bfp8",
        },
        "fidelity_cfg": {"sdpa_decode": "lofi", "li_qkv_decode": "hifi4"},
    }
    path.write_text(json.dumps({"decoders": {"1": entry}}))

    run = replace(RUN, optimizations=path)
    report, engine = play(run)
    held = engine.chips.held[0]
    names = {
        (weight.layer, weight.name): tensor.dtype.name
        for weight, tensor in held.weights.tensors.items()
    }
    assert (names[0, "wqkv"], names[1, "wqkv"]) == ("bfloat8_b", "bfloat16")
    assert (names[0, "w1"], names[1, "w1"]) == ("bfloat4_b", "bfloat8_b")
    first, second, *_ = held.state.caches
    assert second.block_bytes > 1.5 * first.block_bytes
    plain = report_of(RUN)
    assert report.to_dict()["precision"] == "mixed"
    assert report.device.times.now_s != plain.device.times.now_s
    assert report.device.times.step_s == run_one(estimator_of(run, engine), 20, 3, 8).step_s


def test_fidelity_of_attention_reads_fewer_bits(tmp_path):
    """LoFi attention on keys of seven bits changes logits; HiFi4 does not."""

    def logits(fidelity):
        path = tmp_path / f"{fidelity}.json"
        entry = {"fidelity_cfg": dict.fromkeys(("sdpa_decode", "sdpa_prefill"), fidelity)}
        path.write_text(json.dumps({"decoders": {"default": entry}}))
        with Generator(create_model(mesh="1x1", optimizations=str(path))) as generator:
            return generator.prefill_forward([prompt_of(40, 1)])

    assert np.array_equal(logits("hifi4"), logits("hifi4fp32"))
    assert not np.array_equal(logits("hifi4"), logits("lofi"))
