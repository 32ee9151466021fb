"""Device time over real ranks: what is estimated, whatever the host does."""

import json
import os
import random
import time

import pytest
from mpi4py import MPI

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine, Hooks
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.models import Programs
from galaxy_mpi.studies.whole_run import run_all
from galaxy_mpi.systems import PRECISIONS
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator
from tests.prompts import prompt_of

MESH = {4: Mesh(2, 2), 32: Mesh(8, 4)}.get(MPI.COMM_WORLD.size)

pytestmark = [
    pytest.mark.mpi(min_size=2),
    pytest.mark.skipif(MESH is None, reason="no mesh of this many ranks is tested"),
]


def device_of(run: RunConfig, kind: str = "auto", late=None) -> str:
    """Return the device time and tokens of a run as JSON."""
    hooks = Hooks()
    if late is not None:
        hooks = Hooks(before_step=late, before_unpack=late)
    with MpiTransport.connect(run.mesh, kind=kind) as transport:
        with Engine(run, transport, hooks) as engine:
            report = engine.generate()
        return transport.from_root(
            lambda: json.dumps((report.to_dict()["device"], report.tokens), sort_keys=True)
        )


@pytest.mark.skipif(MPI.COMM_WORLD.size != 4, reason="shown by 4 ranks as well as by more")
def test_five_runs_two_transports_one_core_and_sleeps_give_the_same_bytes():
    prompts = tuple(prompt_of(20 + seed, seed) for seed in range(8))
    run = RunConfig(
        mesh=MESH,
        batch=8,
        prompt_tokens=prompts,
        max_new_tokens=3,
        slow_chips=("1,1,1.5",),
        slow_links=("0,0,column,2",),
    )
    first = device_of(run)
    chance = random.Random(MPI.COMM_WORLD.rank)
    assert first == device_of(run, late=lambda _: time.sleep(chance.random() * 0.02))
    assert first == device_of(run, "mpi")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert first == device_of(run)
    finally:
        os.sched_setaffinity(0, cores)
    assert first == device_of(run, "shared")


def test_a_run_takes_what_is_estimated_to_the_last_bit():
    prompts = tuple(prompt_of(20, seed) for seed in range(32))
    run = RunConfig(mesh=MESH, prompt_tokens=prompts, max_new_tokens=3, slow_chips=("1,1,1.5",))
    with MpiTransport.connect(run.mesh) as transport:
        with Engine(run, transport) as engine:
            report, model = engine.generate(), engine.plan.model
        if report is not None:
            machine, precision = Machine.load(run.machine), PRECISIONS[run.precision]
            programs = Programs(model, run.mesh, run.emulated_system, precision, users=32)
            estimator = Estimator(programs, machine, slowness=run.slowness)
            assert report.device.times.to_dict() == run_all(estimator, 20, 2, 32).to_dict()
