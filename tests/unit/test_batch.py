from galaxy_mpi.engine import Batch, EndReason


def make(prompts, **changes):
    settings = {"n_places": 4, "max_new_tokens": 3, "n_positions": 100, "eos_tokens": (99,)}
    return Batch(prompts, **(settings | changes))


def run(batch, token_of):
    fed = []
    while not batch.is_done:
        tokens, positions = batch.inputs()
        fed.append((tokens.tolist(), positions.tolist()))
        batch.advance({u: token_of(u, len(batch.generated[u])) for u in batch.sampling_users()})
    return fed


def test_prompts_of_different_lengths_are_fed_one_token_a_step():
    batch = make([[1, 2, 3], [7]], max_new_tokens=2)
    fed = run(batch, lambda user, n: 10 * (user + 1) + n)
    assert fed == [
        ([1, 7, 0, 0], [0, 0, -1, -1]),
        ([2, 20, 0, 0], [1, 1, -1, -1]),
        ([3, 0, 0, 0], [2, -1, -1, -1]),
        ([10, 0, 0, 0], [3, -1, -1, -1]),
    ]
    assert batch.generated == [[10, 11], [20, 21]]
    assert batch.ended == [EndReason.LENGTH, EndReason.LENGTH]
    assert batch.n_steps_at_most == len(fed)


def test_end_of_text_ends_a_user_and_is_kept():
    batch = make([[1], [2]])
    run(batch, lambda user, n: 99 if user == 0 and n == 1 else 5)
    assert batch.generated == [[5, 99], [5, 5, 5]]
    assert batch.ended == [EndReason.END_OF_TEXT, EndReason.LENGTH]


def test_a_full_cache_ends_a_user_and_no_position_is_beyond_it():
    batch = make([[1, 2], [3]], max_new_tokens=50, n_positions=5)
    fed = run(batch, lambda user, n: 5)
    assert batch.ended == [EndReason.CACHE_FULL] * 2
    assert max(p for _, positions in fed for p in positions) == 4
    assert [len(tokens) for tokens in batch.generated] == [4, 5]


def test_no_prompt_at_all_is_done_at_once():
    assert make([]).is_done
