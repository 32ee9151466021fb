"""The model over real ranks: the tokens of transformers, short prompts and long ones."""

from collections import Counter
from dataclasses import replace

import pytest
from mpi4py import MPI

from galaxy_mpi.checkpoints import locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.engine.device_times import Timing
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi import MpiTransport
from tests.conftest import what_lives
from tests.prompts import LENGTHS, default_ids, prompt_of

MESH = {4: Mesh(2, 2), 8: Mesh(2, 4), 32: Mesh(8, 4)}.get(MPI.COMM_WORLD.size)

pytestmark = [
    pytest.mark.mpi(min_size=2),
    pytest.mark.skipif(MESH is None, reason="no mesh of this many ranks is tested"),
]


def tokens_of(run: RunConfig, kind: str = "auto"):
    with MpiTransport.connect(run.mesh, kind=kind) as transport:
        with Engine(run, transport) as engine:
            report = engine.generate()
        return transport.from_root(lambda: report.tokens)


def reference(prompts, n_new):
    """Return transformers' tokens; only rank 0 loads it."""
    expected = None
    if MPI.COMM_WORLD.rank == 0:
        from tests.reference import greedy_tokens

        expected = greedy_tokens(locate("demo"), [list(prompt) for prompt in prompts], n_new)
    return MPI.COMM_WORLD.bcast(expected)


def test_float32_tokens_are_those_of_transformers():
    run = RunConfig(precision="float32", mesh=MESH, max_new_tokens=32)
    assert tokens_of(run) == reference(default_ids(), 32)


def test_float32_tokens_are_those_of_transformers_at_all_lengths():
    prompts = tuple(prompt_of(n) for n in LENGTHS)
    run = RunConfig(precision="float32", mesh=MESH, max_new_tokens=4, prompt_tokens=prompts)
    assert tokens_of(run) == reference(prompts, 4)


def test_tokens_do_not_depend_on_transport_or_prefetcher():
    run = RunConfig(mesh=MESH, max_new_tokens=4)
    first = tokens_of(run)
    assert first == tokens_of(run, "mpi") == tokens_of(replace(run, prefetch=False), "shared")


@pytest.mark.skipif(MPI.COMM_WORLD.size != 4, reason="shown by 4 ranks as well as by more")
@pytest.mark.parametrize("kind", ["auto", "mpi"])
def test_switching_modes_again_and_again_leaks_nothing(kind):
    """After every ten switches there is as much of everything that can be counted."""
    run = RunConfig(mesh=MESH, prompt_tokens=((1, 2, 3),) * 400, batch=MESH.cols, max_new_tokens=2)
    counts, storage = [], []
    with MpiTransport.connect(run.mesh, kind=kind) as transport, Engine(run, transport) as engine:
        groups = [transport.group(axis) for axis in Axis]
        bound = Counter()
        for group in groups:
            count_bound(group, bound)
        scheduler = engine.new_scheduler()
        for target in range(10, 70, 10):
            while len(engine.times.switch_s) < target:
                engine.prefill(scheduler, scheduler.next_prefill())
                engine.decode(scheduler)
            engine.leave_mode()
            lives = what_lives() | {"bound and not freed": bound["bound"] - bound["freed"]}
            del lives[f"{Timing.__module__}.Timing"]  # the report keeps one of each pass
            counts.append(lives)
            storage.append([group.allocate(64).__array_interface__["data"] for group in groups])
            for group in groups:
                group.recycle()
    assert bound["bound"] > 100
    assert counts[-1]["bound and not freed"] == 0
    for count in counts[1:]:
        assert count == counts[0]
    if kind != "mpi":  # where storage has a place of its own, it begins there again
        for places in storage[1:]:
            assert places == storage[0]


def count_bound(group, bound):
    """Count the exchanges and tables that a group gives out, and those that are freed."""

    def counted(make):
        def made(*arguments, **options):
            thing = make(*arguments, **options)
            free = thing.free

            def freed():
                bound["freed"] += 1
                free()

            bound["bound"] += 1
            thing.free = freed
            return thing

        return made

    group.bind, group.board = counted(group.bind), counted(group.board)
