"""The second system over real ranks: tokens of transformers, both transports, any row of chips."""

from dataclasses import replace

import pytest
from mpi4py import MPI

from galaxy_mpi.config import RunConfig
from galaxy_mpi.mesh import Mesh
from tests.mpi.test_tokens import KINDS, reference, report_of
from tests.prompts import default_ids

MESHES = {
    2: [Mesh(1, 2)],
    4: [Mesh(2, 2), Mesh(4, 1)],
    8: [Mesh(1, 8)],
    32: [Mesh(8, 4)],
}.get(MPI.COMM_WORLD.size, [])

pytestmark = [
    pytest.mark.mpi(min_size=2),
    pytest.mark.skipif(not MESHES, reason="no mesh of this many ranks is tested"),
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_float32_tokens_are_those_of_transformers(mesh):
    run = RunConfig(system="tt_transformers", precision="float32", mesh=mesh, max_new_tokens=4)
    tokens, device = report_of(run)
    assert tokens == reference(default_ids(), 4)
    assert device is None


@pytest.mark.skipif(MPI.COMM_WORLD.size == 32, reason="shown by fewer ranks as well")
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@KINDS
def test_tokens_and_device_time_do_not_depend_on_the_transport(mesh, kind):
    prompts = tuple(default_ids()[:8])
    run = RunConfig(system="tt_transformers", mesh=mesh, max_new_tokens=3, prompt_tokens=prompts)
    first = report_of(run)
    assert first == report_of(run, kind)
    assert first[1]["decode_step_s"] > 0
    if mesh.cols > 1 and mesh.rows > 1:
        galaxy = report_of(replace(run, system="galaxy"), kind)
        assert galaxy[1]["decode_step_s"] < first[1]["decode_step_s"]
