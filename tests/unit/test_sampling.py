import numpy as np
import pytest

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import SamplingParams, TopK, choose


def best_of(logits, k):
    """Return values and tokens of the best of each row."""
    values, tokens = np.empty((len(logits), k), np.float32), np.empty((len(logits), k), np.int64)
    TopK(logits, values, tokens).find_best()
    return values, tokens


@pytest.mark.parametrize("width", [200, 2048, 4096])
def test_top_k_is_sorted_and_ties_go_to_the_lowest_index(width):
    logits = np.random.default_rng(1).integers(-3, 3, (6, width)).astype(np.float32)
    logits[0, :] = 0.0
    logits[0, 7] = -0.0  # equal to 0.0, and no better or worse
    for row, values, tokens in zip(logits, *best_of(logits, 32), strict=True):
        expected = sorted(range(width), key=lambda i: (-row[i], i))[:32]
        assert tokens.tolist() == expected
        np.testing.assert_array_equal(values, row[expected])


def test_top_k_of_a_short_row_is_all_of_it():
    _, tokens = best_of(np.float32([[1, 3, 2]]), 3)
    assert tokens.tolist() == [[1, 2, 0]]


def draw(params: SamplingParams, values: list[float], n: int) -> list[int]:
    stream = [params.stream(0)]
    row, tokens = np.float32([values]), np.arange(len(values))[None]
    return [int(choose(row, tokens, params, stream)[0]) for _ in range(n)]


def test_greedy_takes_the_best_and_the_lowest_of_equals():
    assert draw(SamplingParams(), [1, 5, 5, 2], 3) == [1, 1, 1]
    values, tokens = np.float32([[5, 1, 5]]), np.array([[9, 3, 4]])
    assert choose(values, tokens, SamplingParams(), []).tolist() == [4]


def test_shares_follow_the_softmax_at_the_temperature():
    values, temperature = [2.0, 1.0, 0.0, -1.0], 0.7
    drawn = draw(SamplingParams(temperature=temperature, seed=3), values, 20_000)
    expected = np.exp(np.array(values) / temperature)
    expected /= expected.sum()
    found = np.bincount(drawn, minlength=4) / len(drawn)
    # Five standard deviations of a share among 20,000 draws.
    assert (np.abs(found - expected) < 5 * np.sqrt(expected / 20_000)).all()


def test_top_k_and_top_p_cut_the_tail():
    values = [3.0, 2.0, 1.0, 0.0]
    assert set(draw(SamplingParams(temperature=1, top_k=2), values, 500)) == {0, 1}
    assert set(draw(SamplingParams(temperature=1, top_k=1), values, 10)) == {0}
    # Shares are .64, .24, .09, .03: two are needed for more than .64, three for more than .88.
    assert set(draw(SamplingParams(temperature=1, top_p=0.6), values, 500)) == {0}
    assert set(draw(SamplingParams(temperature=1, top_p=0.8), values, 500)) == {0, 1}
    assert set(draw(SamplingParams(temperature=1, top_p=0.9), values, 2000)) == {0, 1, 2}


def test_a_seed_repeats_and_users_differ():
    params = SamplingParams(temperature=1, seed=9)
    assert draw(params, [1.0] * 8, 20) == draw(params, [1.0] * 8, 20)
    one, two = params.stream(0).random(4), params.stream(1).random(4)
    assert not np.array_equal(one, two)


def test_extreme_temperatures_are_no_nan():
    assert draw(SamplingParams(temperature=1e-300), [1, 2, 3], 3) == [2, 2, 2]
    assert set(draw(SamplingParams(temperature=1e30), [1, 2, 3], 200)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"temperature": -1}, "--temperature must be 0 or more, got -1"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"top_k": 0}, "--top-k must be 1 to 32, got 0"),
        ({"top_k": 33}, "--top-k must be 1 to 32, got 33"),
        ({"top_p": 0}, "--top-p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "--top-p"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        SamplingParams(**arguments)
