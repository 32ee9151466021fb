"""Prefill held against transformers, and against itself in all the ways a prompt can be taken."""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.checkpoints import locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import EndReason, Engine, Hooks
from galaxy_mpi.engine.modes import PrefillMode
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import LoopbackWorld, Mesh
from galaxy_mpi.systems import PrefillPass
from tests.conftest import what_lives
from tests.prompts import LENGTHS, default_ids, prompt_of
from tests.reference import greedy_tokens

RUN = RunConfig(precision="float32", mesh=Mesh(2, 2), max_new_tokens=4)
BOTH = pytest.mark.parametrize("precision", ["float32", "accuracy"])


def on_all_chips(run: RunConfig, play):
    """Return what ``play(engine)`` returns on each chip."""

    def chip(transport):
        with Engine(run, transport) as engine:
            return play(engine)

    return LoopbackWorld(run.mesh).run(chip)


def reference(prompts, n_new):
    return greedy_tokens(locate("demo"), [list(prompt) for prompt in prompts], n_new)


@pytest.mark.parametrize("mesh", ["1x1", "1x2"])
def test_float32_tokens_are_those_of_transformers_at_all_lengths(mesh):
    """Meshes of more chips: tests/mpi/test_tokens.py."""
    prompts = tuple(prompt_of(n) for n in LENGTHS)
    run = replace(RUN, mesh=Mesh.parse(mesh), prompt_tokens=prompts)
    report = on_all_chips(run, Engine.generate)[0]
    assert report.tokens == reference(prompts, 4)


def test_lines_instead_of_rings_give_the_same_float32_tokens():
    prompts = (prompt_of(70), prompt_of(1100))
    run = replace(RUN, mesh=Mesh(2, 4), prompt_tokens=prompts)
    run = replace(run, line_reduce_scatter=True, line_all_gather=True)
    assert on_all_chips(run, Engine.generate)[0].tokens == reference(prompts, 4)


def test_a_short_and_a_long_user_decode_side_by_side():
    prompts = (prompt_of(1500), prompt_of(3), prompt_of(200))
    run = replace(RUN, prompt_tokens=prompts, max_new_tokens=70)
    assert on_all_chips(run, Engine.generate)[0].tokens == reference(prompts, 70)


def state_of(engine, scheduler):
    """Return the bytes of every user's cache on this chip, by request, while all are seated."""
    return {
        request.number: [
            tuple(
                t[0, :, : request.position].tobytes()
                for t in cache.read(np.array([request.blocks]))
            )
            for cache in engine.chip.caches
        ]
        for request in scheduler.active
        if scheduler.column(request.place) == engine.chip.column
    }


@pytest.fixture
def logits(monkeypatch):
    """Logits of every prefill, by (rank, request), in the order of the passes."""
    seen = {}
    original = PrefillMode.logits

    def recorded(mode, work, after_layer):
        result = original(mode, work, after_layer)
        for (_, user), row in zip(work.parts, result, strict=True):
            key = mode.ccl._transport.rank, tuple(user.tokens[-3:].tolist()), len(user.tokens)
            seen.setdefault(key, []).append(row.tobytes())
        return result

    monkeypatch.setattr(PrefillMode, "logits", recorded)
    return seen


@BOTH
def test_batched_prefill_is_bit_identical_to_one_by_one(precision, logits):
    prompts = tuple(
        prompt_of(n, seed=n) for n in (1, 2, 31, 32, 33, 64, 90, 127, 128, *range(3, 14))
    )
    run = replace(RUN, precision=precision, prompt_tokens=prompts)

    def play_with(together):
        def play(engine):
            scheduler = engine.new_scheduler()
            seated = scheduler.next_prefill()
            assert len(seated) == len(prompts)
            for requests in [seated] if together else [[request] for request in seated]:
                engine.prefill(scheduler, requests)
            return [r.generated for r in scheduler.requests], state_of(engine, scheduler)

        return play

    together = on_all_chips(run, play_with(True))
    apart = on_all_chips(run, play_with(False))
    assert together == apart
    assert len(logits) == len(prompts) * 4
    for both in logits.values():
        assert len(both) == 2
        assert both[0] == both[1]


@BOTH
@pytest.mark.parametrize(
    ("first", "shared", "second"),
    [(256, 256, 300), (300, 250, 290), (1500, 1408, 1500), (200, 200, 1400), (129, 129, 129)],
)
def test_a_cached_prefix_is_bit_identical_to_none(precision, first, shared, second):
    """Both prompts begin alike; the second one finds whole 128s of it in the cache."""
    beginning = prompt_of(first)
    ending = prompt_of(second - shared + 1, seed=11)[1:]
    prompts = (beginning, (5,) * 20, beginning[:shared] + ending)
    run = replace(RUN, mesh=Mesh(1, 2), precision=precision, prompt_tokens=prompts)

    def play(engine):
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
        state = state_of(engine, scheduler)
        for _ in range(2):
            engine.decode(scheduler)
        return [r.generated for r in scheduler.requests], state, scheduler.requests[2].n_cached

    shared_tokens = min(shared, second - 1, first) // 128 * 128
    with_cache, without = (
        on_all_chips(replace(run, prefix_caching=caching), play) for caching in (True, False)
    )
    for rank, ((tokens, state, n_cached), (plain, plain_state, none)) in enumerate(
        zip(with_cache, without, strict=True)
    ):
        assert (n_cached, none) == (shared_tokens, 0)
        assert tokens == plain
        assert state == plain_state, rank
    if precision == "float32":
        assert with_cache[0][0] == reference(prompts, 3)


@BOTH
def test_the_ops_of_long_sequences_give_the_same_bits(precision, monkeypatch, logits):
    """2,049 tokens take minimal matmuls and the gather fused with w2; without them the same."""
    prompts = (prompt_of(2049),)
    run = replace(
        RUN, mesh=Mesh(1, 2), precision=precision, prompt_tokens=prompts, max_new_tokens=1
    )
    on_all_chips(run, Engine.generate)
    monkeypatch.setattr(PrefillPass, "is_long", property(lambda work: False))
    on_all_chips(run, Engine.generate)
    assert len(logits) == 2
    assert all(a == b for a, b in logits.values())


def test_more_prompts_than_places_queue_and_get_the_tokens_they_get_alone():
    """70 prompts through 8 places; users end at different times, and others keep their state."""
    prompts = tuple(tuple(ids[: 3 + n % 9]) for n, ids in enumerate(default_ids() * 3))[:70]
    run = replace(RUN, mesh=Mesh(1, 2), batch=8, prompt_tokens=prompts, max_new_tokens=8)
    report = on_all_chips(run, Engine.generate)[0]
    assert report.tokens == reference(prompts, 8)
    assert all(request.place == -1 for request in report.requests)


def test_users_that_leave_early_make_room_and_disturb_nobody():
    """As above with sampled ends: place and company change, a user's sampled text does not."""
    prompts = tuple(prompt_of(2 + n % 40, seed=n) for n in range(12))
    run = replace(RUN, mesh=Mesh(1, 1), prompt_tokens=prompts, max_new_tokens=10)
    run = replace(run, sampling=SamplingParams(temperature=1.0, seed=3))
    alone = on_all_chips(run, Engine.generate)[0]
    crowded = on_all_chips(replace(run, batch=2), Engine.generate)[0]
    assert alone.tokens == crowded.tokens


def test_out_of_blocks_refuses_that_user_only():
    prompts = (prompt_of(40), prompt_of(300), prompt_of(60))
    run = replace(RUN, prompt_tokens=prompts, cache_blocks=3, mesh=Mesh(1, 1))
    said = []

    def chip(transport):
        with Engine(run, transport, Hooks(refused=said.append)) as engine:
            return engine.generate()

    (report,) = LoopbackWorld(run.mesh).run(chip)
    assert [r.ended for r in report.requests] == [
        EndReason.LENGTH,
        EndReason.REFUSED,
        EndReason.LENGTH,
    ]
    assert len(said) == 1
    assert "user 1 refused: its prompt of 300 tokens needs 5 cache blocks of 64" in said[0]
    assert report.tokens[::2] == reference(prompts[::2], 4)
    assert report.to_dict()["host"]["time_to_first_token_by_user_s"][1] is None
    assert "[refused]" in report.to_text(show_all=True)


def test_a_prompt_of_all_positions_gets_one_token():
    prompt = prompt_of(8192)
    run = replace(RUN, mesh=Mesh(1, 1), prompt_tokens=(prompt,), max_new_tokens=9)
    report = on_all_chips(run, Engine.generate)[0]
    assert report.requests[0].ended is EndReason.CACHE_FULL
    assert report.tokens == reference([prompt], 1)


def test_switching_modes_again_and_again_leaks_nothing():
    """Every user's prefill interrupts the decode of the others; 20 switches, then 40 more.

    After each pair of switches there is as much of everything that can be counted.
    """
    run = replace(RUN, mesh=Mesh(1, 2), prompt_tokens=((1, 2, 3),) * 200, batch=2, max_new_tokens=3)
    counts = []

    def play(engine):
        scheduler = engine.new_scheduler()
        transport = engine.chip.transport
        for step in range(1, 46):
            while requests := scheduler.next_prefill():
                engine.prefill(scheduler, requests)
            engine.decode(scheduler)
            if step % 15 == 0:
                engine.leave_mode()
                transport.gather(None)  # all chips have left theirs
                if transport.rank == 0:
                    counts.append(what_lives() | {"queues": len(transport.world._queues)})
                transport.gather(None)

    on_all_chips(run, play)
    assert len(counts) == 3
    assert counts[1] == counts[0]
    assert counts[2] == counts[0]


def test_a_mode_begins_with_empty_buffers_and_index_zero():
    def play(engine):
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
        engine.decode(scheduler)
        prefill = engine.prefill_mode()
        fresh = dict(prefill.ccl.buffers.index), prefill.ccl.buffers.n_bytes
        decode = engine.decode_mode()
        assert engine.decode_mode() is decode
        return [*fresh, dict(decode.ccl.buffers.index), decode.ccl.buffers.n_bytes]

    run = replace(RUN, prompt_tokens=((1, 2, 3),))
    for found in on_all_chips(run, play):
        assert found == [{0: 0, 1: 0}, 0, {0: 0, 1: 0}, 0]
