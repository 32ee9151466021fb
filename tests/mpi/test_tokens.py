"""The model over real ranks: the tokens of transformers, in every way that ranks can be joined.

The 32 ranks do the main job, once over each transport; fewer ranks do all the rest.
"""

from functools import lru_cache

import pytest
from mpi4py import MPI

from galaxy_mpi.checkpoints import locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.timing.times import Timing
from tests.conftest import what_lives
from tests.prompts import default_ids, prompt_of

SIZE = MPI.COMM_WORLD.size
MESH = {2: Mesh(1, 2), 4: Mesh(2, 2), 8: Mesh(2, 4), 32: Mesh(8, 4)}.get(SIZE)

pytestmark = [
    pytest.mark.mpi(min_size=2),
    pytest.mark.skipif(MESH is None, reason="no mesh of this many ranks is tested"),
]

FEW = pytest.mark.skipif(SIZE != 4, reason="shown by 4 ranks as well as by more")
# A test whose id is "mpi" alone would be skipped by pytest-mpi.
KINDS = pytest.mark.parametrize("kind", ["shared", "mpi"], ids=["memory", "messages"])


def report_of(run: RunConfig, kind: str = "auto", chips_per_rank: int = 1):
    """Return tokens and device figures of a run, on all ranks."""
    with MpiTransport.connect(
        run.working_mesh, kind=kind, chips_per_rank=chips_per_rank
    ) as transport:
        with Engine(run, transport) as engine:
            report = engine.generate()
        return transport.from_root(lambda: (report.tokens, report.to_dict()["device"]))


def tokens_of(run: RunConfig, kind: str = "auto", chips_per_rank: int = 1):
    """Return the tokens of a run, on all ranks."""
    return report_of(run, kind, chips_per_rank)[0]


def reference(prompts, n_new):
    """Return transformers' tokens; only rank 0 loads it."""
    expected = None
    if MPI.COMM_WORLD.rank == 0:
        from tests.reference import greedy_tokens

        expected = greedy_tokens(locate("demo"), [list(prompt) for prompt in prompts], n_new)
    return MPI.COMM_WORLD.bcast(expected)


@KINDS
def test_float32_tokens_are_those_of_transformers(kind):
    """The main job: 32 prompts, short passes and steps."""
    n_new = 4 if SIZE == 32 else 8
    run = RunConfig(precision="float32", mesh=MESH, max_new_tokens=n_new)
    assert tokens_of(run, kind) == reference(default_ids(), n_new)


@pytest.mark.skipif(SIZE not in (4, 8), reason="shown by 4 and 8 ranks")
def test_float32_tokens_are_those_of_transformers_at_all_lengths():
    lengths = (1, 127, 129, 1025, 4097) if SIZE == 4 else (128, 2048)
    prompts = tuple(prompt_of(n) for n in lengths)
    run = RunConfig(precision="float32", mesh=MESH, max_new_tokens=3, prompt_tokens=prompts)
    assert tokens_of(run) == reference(prompts, 3)


@FEW
@KINDS
@pytest.mark.parametrize("collectives", ["direct", "ring", "line"])
@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
def test_float32_tokens_are_the_same_with_any_collectives(system, collectives, kind):
    prompts = (*default_ids()[:6], prompt_of(300))
    run = RunConfig(
        system=system,
        precision="float32",
        mesh=MESH,
        max_new_tokens=4,
        collectives=collectives,
        prompt_tokens=prompts,
        check=True,
    )
    assert tokens_of(run, kind) == reference(prompts, 4)


@FEW
@KINDS
def test_any_number_of_chips_a_rank_gives_the_same_bytes(kind):
    """Meshes of 8 and 16 chips on 4 ranks; what is local, shared or sent differs."""
    prompts = (*map(tuple, default_ids()[:8]), prompt_of(140))
    for system, mesh, chips_per_rank in (
        ("galaxy", Mesh(2, 4), 2),
        ("galaxy", Mesh(4, 4), 4),
        ("tt_transformers", Mesh(4, 2), 2),
    ):
        run = RunConfig(
            system=system,
            mesh=mesh,
            max_new_tokens=3,
            prompt_tokens=prompts,
            slow_chips=("1,1,1.5",),
        )
        here = report_of(run, kind, chips_per_rank)
        assert here == MPI.COMM_WORLD.bcast(alone(run) if MPI.COMM_WORLD.rank == 0 else None)


@lru_cache
def alone(run: RunConfig):
    """Return the same from one process."""
    from galaxy_mpi.mesh.local_transport import LocalTransport

    with Engine(run, LocalTransport(run.working_mesh)) as engine:
        report = engine.generate()
    return report.tokens, report.to_dict()["device"]


@FEW
def test_tokens_do_not_depend_on_transport_or_prefetcher():
    prompts = tuple(default_ids()[:12])
    run = RunConfig(mesh=MESH, max_new_tokens=4, prompt_tokens=prompts)
    first = tokens_of(run)
    assert first == tokens_of(run, "mpi")
    direct = RunConfig(mesh=MESH, max_new_tokens=4, prompt_tokens=prompts, prefetch=False)
    assert first == tokens_of(direct, "shared")


@FEW
@pytest.mark.parametrize("kind", ["auto", "mpi"], ids=["memory", "messages"])
def test_switching_modes_again_and_again_leaks_nothing(kind):
    """After every twenty switches there is as much of everything that can be counted."""
    run = RunConfig(mesh=MESH, prompt_tokens=((1, 2, 3),) * 400, batch=MESH.cols, max_new_tokens=2)
    counts = []
    with MpiTransport.connect(run.mesh, kind=kind) as transport, Engine(run, transport) as engine:
        scheduler = engine.new_scheduler()
        for target in range(20, 120, 20):
            while len(engine.times.switch_s) < target:
                engine.prefill(scheduler, scheduler.next_prefill())
                engine.decode(scheduler)
            lives = what_lives()
            lives.pop(f"{Timing.__module__}.Timing", None)  # the report keeps one of each pass
            counts.append(lives)
    for count in counts[2:]:
        assert count == counts[1]
