"""Every family of models over real ranks, on meshes that no size of theirs divides by."""

import shutil
import tempfile
from pathlib import Path

import pytest
from mpi4py import MPI

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from tests.families import FAMILIES, random_prompts, write_family

MESH = {2: Mesh(2, 1), 8: Mesh(2, 4)}.get(MPI.COMM_WORLD.size)

pytestmark = [
    pytest.mark.mpi(min_size=2),
    pytest.mark.skipif(MESH is None, reason="no mesh of this many ranks is tested"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_tokens_are_those_of_transformers(name):
    world, prompts = MPI.COMM_WORLD, random_prompts(5)
    folder, expected = None, None
    if world.rank == 0:
        from tests.reference import greedy_tokens

        folder = write_family(name, Path(tempfile.mkdtemp()))
        expected = greedy_tokens(folder, [list(prompt) for prompt in prompts], 6)
    folder, expected = world.bcast((folder, expected))
    run = RunConfig(
        model=str(folder),
        precision="float32",
        mesh=MESH,
        prompt_tokens=prompts,
        max_new_tokens=6,
        cache_blocks=64,
    )
    with MpiTransport.connect(MESH) as transport, Engine(run, transport) as engine:
        report = engine.generate()
    world.Barrier()
    if report is not None:
        shutil.rmtree(folder)
        assert report.tokens == expected
