"""What the tests of changes share: a small run, all its chips in this process."""

from dataclasses import replace

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.systems.galaxy import GALAXY
from tests.prompts import prompt_of

RUN = RunConfig(
    mesh=Mesh(2, 2),
    precision="float32",
    n_layers=2,
    batch=4,
    max_new_tokens=3,
    prompt_tokens=tuple(prompt_of(n, n) for n in (5, 20, 40)),
    cache_blocks=16,
)


def play(run, **more):
    """Return the report of a run."""
    run = replace(run, **more)
    with Engine(run, LocalTransport(run.working_mesh)) as engine:
        return engine.generate()


def with_decode(**ops):
    """Return the Galaxy with other ops in decode."""
    return replace(GALAXY, name="changed", decode=replace(GALAXY.decode, **ops))
