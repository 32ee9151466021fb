"""The model over real ranks: the same tokens as with all chips in one process."""

from dataclasses import replace

import pytest
from mpi4py import MPI

from galaxy_mpi.checkpoints import TextTokenizer, default_prompts, locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.mpi import MpiTransport

MESH = {4: Mesh(2, 2), 32: Mesh(8, 4)}.get(MPI.COMM_WORLD.size)

pytestmark = [
    pytest.mark.mpi(min_size=2),
    pytest.mark.skipif(MESH is None, reason="no mesh of this many ranks is tested"),
]


def tokens_of(run: RunConfig, kind: str = "auto"):
    with MpiTransport.connect(run.mesh, kind=kind) as transport:
        with Engine(run, transport) as engine:
            report = engine.generate()
        return transport.from_root(lambda: report.tokens)


def test_float32_tokens_are_those_of_transformers():
    run = RunConfig(precision="float32", mesh=MESH, max_new_tokens=32)
    tokens = tokens_of(run)
    if MPI.COMM_WORLD.rank == 0:
        from tests.reference import greedy_tokens

        tokenizer = TextTokenizer(locate("demo"))
        ids = [tokenizer.encode(prompt, n) for n, prompt in enumerate(default_prompts())]
        expected = greedy_tokens(locate("demo"), ids, 32)
    else:
        expected = None
    assert tokens == MPI.COMM_WORLD.bcast(expected)


def test_tokens_do_not_depend_on_transport_or_prefetcher():
    run = RunConfig(mesh=MESH, max_new_tokens=4)
    first = tokens_of(run)
    assert first == tokens_of(run, "mpi") == tokens_of(replace(run, prefetch=False), "shared")
