import numpy as np
import pytest

from galaxy_mpi.engine.request import CacheLimits, EndReason
from galaxy_mpi.engine.scheduler import Scheduler


def make(prompts, n_places=4, n_columns=2, *, n_blocks=100, page=64, longest=4096, **changes):
    limits = CacheLimits(page_size=page, n_blocks=n_blocks, max_seq_len=longest)
    settings = {"max_new_tokens": 3, "eos_tokens": (99,)}
    return Scheduler(prompts, n_places, n_columns, limits, **(settings | changes))


def run(scheduler, token_of=lambda number, n: 5):
    """Play the engine's loop; return the numbers of every pass and of every step."""
    passes, steps = [], []

    def next_tokens(requests):
        return {r.number: token_of(r.number, len(r.generated)) for r in requests}

    while not scheduler.is_done:
        while requests := scheduler.next_prefill():
            passes.append([r.number for r in requests])
            scheduler.advance(next_tokens(requests))
        if scheduler.active:
            steps.append([r.number for r in scheduler.active])
            scheduler.advance(next_tokens(scheduler.active))
    for pool in scheduler.pools:
        assert pool.n_available == pool.n_blocks
    assert scheduler.places.promised == [0] * len(scheduler.pools)
    assert (scheduler.positions == -1).all()
    return passes, steps


def test_each_prompt_is_prefilled_and_then_stepped():
    scheduler = make([[1, 2, 3], [7]], max_new_tokens=3)
    passes, steps = run(scheduler, lambda number, n: 10 * (number + 1) + n)
    assert passes == [[0], [1]]
    assert steps == [[0, 1], [0, 1]]
    assert [r.generated for r in scheduler.requests] == [[10, 11, 12], [20, 21, 22]]
    assert [r.ended for r in scheduler.requests] == [EndReason.LENGTH] * 2


def test_positions_and_tokens_are_those_of_the_newest_token():
    scheduler = make([[1, 2, 3]])
    scheduler.advance({scheduler.next_prefill()[0].number: 8})
    assert scheduler.tokens.tolist() == [8, 0, 0, 0]
    assert scheduler.positions.tolist() == [3, -1, -1, -1]
    table = scheduler.page_table(0)
    assert (table.positions_B.tolist(), table.blocks_BP.tolist()) == ([3, -1], [[0], [-1]])
    assert scheduler.page_table(1).positions_B.tolist() == [-1, -1]


def test_steps_that_are_left_are_known_once_nobody_waits():
    scheduler = make([[1] * 3, [2] * 7], 1, 1, longest=8, max_new_tokens=4)
    assert scheduler.n_steps_left is None
    scheduler.advance({scheduler.next_prefill()[0].number: 5})
    assert scheduler.n_steps_left is None  # the second prompt waits for the only place
    scheduler = make([[1] * 3, [2] * 7], longest=8, max_new_tokens=4)
    left = []
    while not scheduler.is_done:
        while requests := scheduler.next_prefill():
            scheduler.advance({r.number: 5 for r in requests})
        left.append(scheduler.n_steps_left)
        scheduler.advance({r.number: 5 for r in scheduler.active})
    assert left == [3, 2, 1]
    # The context of 8 positions: the last token needs none.
    assert [len(r.generated) for r in scheduler.requests] == [4, 2]
    assert scheduler.requests[1].ended is EndReason.CACHE_FULL


def test_end_of_text_ends_a_user_and_is_kept():
    scheduler = make([[1], [2], [3]])
    run(scheduler, lambda number, n: 99 if number == n else 5)
    assert [r.generated for r in scheduler.requests] == [[99], [5, 99], [5, 5, 99]]
    assert [r.ended for r in scheduler.requests] == [EndReason.END_OF_TEXT] * 3


def test_a_user_that_ends_frees_its_place_and_the_next_waiting_one_takes_it():
    scheduler = make([[n] for n in range(6)], max_new_tokens=4)
    passes, steps = run(scheduler, lambda number, n: 99 if number == 1 and n == 1 else 5)
    assert passes == [[0], [1], [2], [3], [4], [5]]
    assert steps[0] == [0, 1, 2, 3]
    assert steps[1] == [0, 4, 2, 3]  # by place: request 4 sits where 1 sat
    assert all(r.ended for r in scheduler.requests)


def test_sixteen_short_prompts_start_together_and_fifteen_do_not():
    passes, _ = run(make([[1]] * 20, n_places=32))
    assert passes == [list(range(20))]
    passes, _ = run(make([[1]] * 15, n_places=32))
    assert passes == [[n] for n in range(15)]
    passes, _ = run(make([[1]] * 3 + [[1] * 129] + [[1]] * 16, n_places=32))
    assert passes == [[0], [1], [2], [3], list(range(4, 20))]
    scheduler = make([[1]] * 20, n_places=32)
    work = scheduler.prefill_pass(scheduler.next_prefill())
    assert (work.n_parts, work.shape.device_rows, work.shape.n_rows) == (32, 4096, 20 * 32)


def test_blocks_are_taken_as_a_user_grows_and_never_more_than_promised():
    scheduler = make([[1] * 60], page=4, n_blocks=20, max_new_tokens=21)
    (request,) = scheduler.next_prefill()
    sizes = [len(request.blocks)]
    while request.ended is None:
        scheduler.advance({0: 5})
        sizes.append(len(request.blocks))
    assert sizes[:6] == [15, 16, 16, 16, 16, 17]
    assert max(sizes) == 20
    assert request.ended is EndReason.LENGTH


def test_a_prompt_that_can_never_fit_is_refused_and_the_others_go_on():
    said = []
    prompts = [[1], [1] * 300, [2]]
    scheduler = make(prompts, n_blocks=4, refused=said.append)
    run(scheduler)
    assert [r.ended for r in scheduler.requests] == [
        EndReason.LENGTH,
        EndReason.REFUSED,
        EndReason.LENGTH,
    ]
    assert scheduler.requests[1].generated == []
    assert len(said) == 1
    assert "user 1 rejected: its prompt of 300 tokens needs 5 cache blocks of 64" in said[0]
    assert "a column has 4" in said[0]


def test_who_finds_no_memory_waits_until_another_leaves_it():
    """Two columns of 4 blocks, every user needs 3: one at a time in each, and all get through."""
    scheduler = make([[1] * 150] * 5, n_places=8, n_blocks=4, prefix_caching=False)
    passes, steps = run(scheduler)
    assert passes == [[0], [1], [2], [3], [4]]
    assert steps == [[0, 1], [0, 1], [2, 3], [2, 3], [4], [4]]
    assert {r.ended for r in scheduler.requests} == {EndReason.LENGTH}


def test_short_prompts_that_find_memory_for_few_start_one_by_one():
    scheduler = make([[1] * 100] * 20, n_places=32, n_blocks=10)
    passes, _ = run(scheduler)
    assert passes == [[n] for n in range(20)]


@pytest.mark.parametrize(("n_blocks", "longest"), [(2, 4096), (100, 128)])
def test_a_full_cache_ends_a_user_and_no_position_is_beyond_it(n_blocks, longest):
    scheduler = make([[1] * 120], n_blocks=n_blocks, longest=longest, max_new_tokens=500)
    (request,) = scheduler.next_prefill()
    seen = []
    while request.ended is None:
        scheduler.advance({0: 5})
        seen.append(int(scheduler.positions[0]))
    assert request.ended is EndReason.CACHE_FULL
    assert max(seen) == 127
    assert len(request.generated) == 9  # the last one needs no position of its own


def test_a_known_prefix_is_shared_in_its_column_in_whole_128s():
    prefix = list(range(1000, 1300))
    prompts = [[*prefix, 1, 2], [7], [8], [*prefix, 3], [*prefix[:200], 4]]
    scheduler = make(prompts, n_places=16, max_new_tokens=9)
    seated = []
    while requests := scheduler.next_prefill():
        seated += requests
        scheduler.advance({requests[0].number: 5})
    first, _, _, fourth, fifth = seated
    assert [r.n_cached for r in seated] == [0, 0, 0, 256, 128]
    assert fourth.blocks[:4] == first.blocks[:4]
    assert fifth.blocks[:2] == first.blocks[:2]
    assert not set(fourth.blocks[4:]) & set(first.blocks)
    assert {scheduler.column(r.place) for r in seated} == {0}


def test_a_prefix_draws_a_prompt_to_the_column_that_has_it():
    prefix = list(range(1000, 1300))
    scheduler = make([[1], [2], prefix, [*prefix, 4]], n_places=8, n_columns=4, max_new_tokens=9)
    places = []
    while requests := scheduler.next_prefill():
        places.append(requests[0].place)
        scheduler.advance({requests[0].number: 5})
    assert places == [0, 1, 2, 3]
    assert scheduler.requests[3].n_cached == 256


def test_a_prompt_that_is_known_as_a_whole_still_computes_its_end():
    prompt = list(range(256))
    scheduler = make([prompt, prompt, prompt[:129]], n_places=8, max_new_tokens=5)
    while requests := scheduler.next_prefill():
        scheduler.advance({requests[0].number: 5})
    assert [r.n_cached for r in scheduler.requests] == [0, 128, 128]


def test_odd_page_sizes_share_whole_blocks_and_whole_128s():
    prompt = list(range(1000))
    scheduler = make([prompt, [*prompt, 1]], n_places=8, page=48, max_new_tokens=5)
    while requests := scheduler.next_prefill():
        scheduler.advance({requests[0].number: 5})
    assert scheduler.requests[1].n_cached == 768  # two of lcm(48, 128)


def test_without_prefix_caching_nothing_is_shared():
    prompt = list(range(300))
    scheduler = make([prompt, prompt], n_places=8, max_new_tokens=5, prefix_caching=False)
    while requests := scheduler.next_prefill():
        scheduler.advance({requests[0].number: 5})
    assert [r.n_cached for r in scheduler.requests] == [0, 0]


def test_two_hundred_random_prompts_all_end_and_leave_nothing():
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 4, rng.integers(1, 400)).tolist() for _ in range(180)] + [
        [1] * 260
    ] * 20
    scheduler = make(prompts, n_places=32, n_columns=4, n_blocks=12, max_new_tokens=70)
    run(scheduler, lambda number, n: int(rng.integers(90, 100)))
    assert all(r.ended for r in scheduler.requests)


def test_no_prompt_at_all_is_done_at_once():
    assert make([]).is_done
