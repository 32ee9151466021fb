"""Every family of models on meshes that no size of theirs divides by, against transformers."""

from dataclasses import replace

import pytest

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.report_text import report_text
from galaxy_mpi.mesh import Mesh
from tests.chips.playing import report_of
from tests.families import FAMILIES, random_prompts, write_family, write_meta
from tests.reference import greedy_tokens


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write_family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.mark.parametrize("mesh", ["1x1", "1x3", "5x2", "8x4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_tokens_are_those_of_transformers(folders, name, mesh):
    prompts = random_prompts(5)
    run = RunConfig(
        model=str(folders[name]),
        precision="float32",
        mesh=Mesh.parse(mesh),
        prompt_tokens=prompts,
        max_new_tokens=6,
        cache_blocks=64,
    )
    report = report_of(run)
    assert report.tokens == greedy_tokens(folders[name], [list(p) for p in prompts], 6)
    if mesh != "1x1":
        assert "padded" in report_text(report, show_all=False)


def test_a_folder_of_meta_is_the_same_model(folders, tmp_path):
    prompts = random_prompts(4)
    run = RunConfig(
        model=str(write_meta(folders["llama"], tmp_path / "meta")),
        precision="float32",
        mesh=Mesh(2, 3),
        prompt_tokens=prompts,
        max_new_tokens=6,
        cache_blocks=64,
    )
    expected = greedy_tokens(folders["llama"], [list(p) for p in prompts], 6)
    assert report_of(run).tokens == expected
    assert len(report_of(replace(run, n_layers=1)).tokens) == 4


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_rounded_runs_have_device_time_and_mostly_the_same_first_tokens(folders, name):
    prompts = random_prompts(8)
    run = RunConfig(
        model=str(folders[name]),
        precision="accuracy",
        mesh=Mesh(3, 2),
        prompt_tokens=prompts,
        max_new_tokens=3,
        cache_blocks=64,
    )
    report = report_of(run)
    expected = greedy_tokens(folders[name], [list(p) for p in prompts], 1)
    pairs = zip(report.tokens, expected, strict=True)
    assert sum(found[0] == right[0] for found, right in pairs) >= 5
    assert ("norm_heads" in report.device.times.steps.by_op_s) == (name == "qwen3")
