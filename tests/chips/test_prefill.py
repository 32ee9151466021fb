"""Prefill held against transformers, and against itself in all the ways a prompt can be taken."""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.checkpoints import locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.modes import MOST_PASS_ROWS, PrefillMode
from galaxy_mpi.engine.report_text import report_text
from galaxy_mpi.engine.request import EndReason
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems import PassShape
from tests.chips.playing import connect, report_of
from tests.conftest import what_lives
from tests.prompts import LENGTHS, default_ids, prompt_of
from tests.reference import greedy_tokens

RUN = RunConfig(precision="float32", mesh=Mesh(2, 2), max_new_tokens=4)
BOTH = pytest.mark.parametrize("precision", ["float32", "accuracy"])


def reference(prompts, n_new):
    return greedy_tokens(locate("demo"), [list(prompt) for prompt in prompts], n_new)


@pytest.mark.parametrize("mesh", ["1x1", "2x2", "8x4"])
def test_float32_tokens_are_those_of_transformers_at_all_lengths(mesh):
    prompts = tuple(prompt_of(n) for n in LENGTHS)
    run = replace(RUN, mesh=Mesh.parse(mesh), prompt_tokens=prompts)
    report = report_of(run)
    assert report.tokens == reference(prompts, 4)


def test_lines_instead_of_rings_give_the_same_float32_tokens():
    prompts = (prompt_of(70), prompt_of(1100))
    run = replace(RUN, mesh=Mesh(2, 4), prompt_tokens=prompts)
    run = replace(run, line_reduce_scatter=True, line_all_gather=True)
    assert report_of(run).tokens == reference(prompts, 4)


def test_a_short_and_a_long_user_decode_side_by_side():
    prompts = (prompt_of(1500), prompt_of(3), prompt_of(200))
    run = replace(RUN, prompt_tokens=prompts, max_new_tokens=70)
    assert report_of(run).tokens == reference(prompts, 70)


def state_of(engine, scheduler):
    """Return the bytes of every user's cache on every chip, while all are seated."""
    return {
        (held.rank, request.number): [
            tuple(t[:, : request.position].tobytes() for t in cache.read(np.array(request.blocks)))
            for cache in held.state.caches
        ]
        for held in engine.chips.held
        for request in scheduler.active
        if scheduler.column(request.place) == engine.chips.mesh.coord(held.rank)[1]
    }


class Logits:
    """Takes the place of an engine's prefill mode, and keeps the logits of every prompt.

    Attributes
    ----------
    seen : dict
        By (rank, last tokens, length): the bytes of each time that this was prefilled.
    """

    def __init__(self, engine):
        self._mode = PrefillMode(engine.chips, engine.programs, [self._tapped])
        engine.prefill_mode.free()
        engine.prefill_mode = self
        self.seen, self._last = {}, {}
        self.name, self.totals, self.free = self._mode.name, self._mode.totals, self._mode.free

    def _tapped(self, program):
        def tap(chip, use, outputs):
            if use.op.name == "lm_head":
                chip.call(lambda: self._last.update({chip.rank: outputs[0].copy()}))

        return tap

    def run(self, work):
        ready = self._mode.run(work)
        for rank, rows in self._last.items():
            for number, user in enumerate(work.users):
                key = rank, tuple(user.tokens[-3:].tolist()), len(user.tokens)
                self.seen.setdefault(key, []).append(rows[number].tobytes())
        return ready


@BOTH
def test_batched_prefill_is_bit_identical_to_one_by_one(precision):
    prompts = tuple(
        prompt_of(n, seed=n) for n in (1, 2, 31, 32, 33, 64, 90, 127, 128, *range(3, 14))
    )
    run = replace(RUN, precision=precision, prompt_tokens=prompts)

    def found(*, together):
        with connect(run) as engine:
            logits, scheduler = Logits(engine), engine.new_scheduler()
            seated = scheduler.next_prefill()
            assert len(seated) == len(prompts)
            for requests in [seated] if together else [[request] for request in seated]:
                engine.prefill(scheduler, requests)
            tokens = [r.generated for r in scheduler.requests]
            return tokens, state_of(engine, scheduler), logits.seen

    at_once = found(together=True)
    assert len(at_once[1]) == 2 * len(prompts)
    assert len(at_once[2]) == 4 * len(prompts)
    assert at_once == found(together=False)


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

    def found(*, caching):
        with connect(replace(run, prefix_caching=caching)) as engine:
            scheduler = engine.new_scheduler()
            while requests := scheduler.next_prefill():
                engine.prefill(scheduler, requests)
            state = state_of(engine, scheduler)
            for _ in range(2):
                engine.decode(scheduler)
            generated = [r.generated for r in scheduler.requests]
            return scheduler.requests[2].n_cached, generated, state

    n_cached, tokens, state = found(caching=True)
    none, plain, plain_state = found(caching=False)
    assert (n_cached, none) == (min(shared, second - 1, first) // 128 * 128, 0)
    assert tokens == plain
    assert state == plain_state
    if precision == "float32":
        assert tokens == reference(prompts, 3)


@BOTH
def test_the_ops_of_long_sequences_give_the_same_bits(precision, monkeypatch):
    """2,049 tokens take the gather fused with w2; without it the same."""
    prompts = (prompt_of(2049),)
    run = replace(
        RUN, mesh=Mesh(1, 2), precision=precision, prompt_tokens=prompts, max_new_tokens=1
    )

    def found():
        with connect(run) as engine:
            logits = Logits(engine)
            return engine.generate().device, logits.seen

    device, seen = found()
    monkeypatch.setattr(PassShape, "is_long", property(lambda work: False))
    plain_device, plain = found()
    assert len(seen) == 2
    assert seen == plain
    if precision != "float32":
        assert device.times.now_s != plain_device.times.now_s


def test_more_prompts_than_places_queue_and_get_the_tokens_they_get_alone():
    """70 prompts through 8 places; users end at different times, and others keep their state."""
    prompts = tuple(tuple(ids[: 3 + n % 9]) for n, ids in enumerate(default_ids() * 3))[:70]
    run = replace(RUN, mesh=Mesh(1, 2), batch=8, prompt_tokens=prompts, max_new_tokens=8)
    report = report_of(run)
    assert report.tokens == reference(prompts, 8)
    assert all(request.place == -1 for request in report.requests)


def test_users_that_leave_early_make_room_and_disturb_nobody():
    """As above with sampled ends: place and company change, a user's sampled text does not."""
    prompts = tuple(prompt_of(2 + n % 40, seed=n) for n in range(12))
    run = replace(RUN, mesh=Mesh(1, 1), prompt_tokens=prompts, max_new_tokens=10)
    run = replace(run, sampling=SamplingParams(temperature=1.0, seed=3))
    alone = report_of(run)
    crowded = report_of(replace(run, batch=2))
    assert alone.tokens == crowded.tokens


def test_out_of_blocks_refuses_that_user_only():
    prompts = (prompt_of(40), prompt_of(300), prompt_of(60))
    run = replace(RUN, prompt_tokens=prompts, cache_blocks=3, mesh=Mesh(1, 1))
    said = []

    report = report_of(run, refused=said.append)
    assert [r.ended for r in report.requests] == [
        EndReason.LENGTH,
        EndReason.REFUSED,
        EndReason.LENGTH,
    ]
    assert len(said) == 1
    assert "user 1 rejected: its prompt of 300 tokens needs 5 cache blocks of 64" in said[0]
    assert report.tokens[::2] == reference(prompts[::2], 4)
    assert report.to_dict()["host"]["time_to_first_token_by_user_s"][1] is None
    assert "[refused]" in report_text(report, show_all=True)


def test_a_prompt_of_all_positions_gets_one_token():
    prompt = prompt_of(8192)
    run = replace(RUN, mesh=Mesh(1, 1), prompt_tokens=(prompt,), max_new_tokens=9)
    report = report_of(run)
    assert report.requests[0].ended is EndReason.CACHE_FULL
    assert report.tokens == reference([prompt], 1)


def test_switching_modes_again_and_again_leaks_nothing():
    """Every user's prefill interrupts the decode of the others; 20 switches, then 40 more.

    After each pair of switches there is as much of everything that can be counted.
    """
    run = replace(RUN, mesh=Mesh(1, 2), prompt_tokens=((1, 2, 3),) * 200, batch=2, max_new_tokens=3)
    counts = []
    with connect(run) as engine:
        scheduler = engine.new_scheduler()
        for step in range(1, 46):
            while requests := scheduler.next_prefill():
                engine.prefill(scheduler, requests)
            engine.decode(scheduler)
            if step % 15 == 0:
                counts.append(what_lives())
    assert counts[1] == counts[0]
    assert counts[2] == counts[0]


def test_programs_of_passes_are_kept_within_bounds_and_the_last_used_stay():
    """Bound again, they give the same bits; the rows of all that are kept are limited."""
    lengths = (33, 1500, 2049, 4097, 4600, 5200, 33, 1500, 5200)
    prompts = tuple(prompt_of(n) for n in lengths)
    run = replace(RUN, mesh=Mesh(1, 2), prompt_tokens=prompts, max_new_tokens=1, n_layers=1)
    with connect(replace(run, prefix_caching=False)) as engine:
        scheduler, mode = engine.new_scheduler(), engine.prefill_mode
        shapes = []
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
            shapes.append([key[0].n_rows for key in mode._kept])
        assert max(map(sum, shapes)) <= MOST_PASS_ROWS
        assert len(shapes[-1]) > 1
        assert 5216 in shapes[-1]  # 5,200 in tiles of 32 rows
        tokens = [request.generated for request in scheduler.requests]
    assert tokens[0] == tokens[6]
    assert tokens[1] == tokens[7]
    assert tokens[5] == tokens[8]


def kept_after(lengths):
    """Return bytes of arrays, and codecs, after passes of so many rows have been bound in turn."""
    run = replace(RUN, mesh=Mesh(1, 2), prompt_tokens=(prompt_of(33),), n_layers=1)
    with connect(replace(run, precision="performance")) as engine:
        mode, chips = engine.prefill_mode, engine.chips
        for n_rows in lengths:
            key = PassShape.of_prompt(n_rows), False, False, 0
            mode._kept[key] = mode._bind_pass(*key)
            mode._forget()
        return len(mode._kept), chips.held[0].pool.n_bytes, len(chips.codecs._kept)


def test_what_only_dropped_programs_used_is_freed():
    """Each pass is longer than all before it, so nothing of theirs is large enough for it."""
    lengths = range(512, 8193, 512)
    _, whole_bytes, whole_codecs = kept_after(lengths[-1:])
    n_kept, n_bytes, n_codecs = kept_after(lengths)
    assert n_kept == 2
    assert n_bytes <= 2 * whole_bytes
    assert n_codecs <= 2 * whole_codecs
