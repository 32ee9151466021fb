"""Kernels against plain float64 arithmetic, written another way."""

import numpy as np
import pytest

from galaxy_mpi.kernels import (
    RotaryTable,
    attention_decode,
    rms_scale,
    rotate,
    silu_mul,
    sum_of_squares,
)

RNG = np.random.default_rng(11)


def randn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_silu_mul():
    gate, up = randn(5, 7) * 10, randn(5, 7)
    expected = gate.astype(float) / (1 + np.exp(-gate.astype(float))) * up
    np.testing.assert_allclose(silu_mul(gate, up), expected, rtol=1e-5)
    with np.errstate(over="raise", invalid="raise"):
        assert silu_mul(np.float32([-1e30, 2.0**90]), np.float32([1, 1])).tolist() == [
            -0.0,
            2.0**90,
        ]


def test_the_norm_of_shards_is_the_norm_of_the_whole():
    x = randn(4, 32)
    sums = sum(sum_of_squares(shard) for shard in np.split(x, 4, axis=1))
    expected = x / np.sqrt((x.astype(float) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(x * rms_scale(sums, dim=32, eps=1e-5), expected, rtol=1e-5)


@pytest.mark.parametrize(("n_heads", "n_kv"), [(1, 1), (4, 1), (6, 2), (8, 8)])
def test_attention_sees_its_own_past_and_nothing_else(n_heads, n_kv):
    positions = np.array([0, 4, 8, -1])
    q, k, v = randn(4, n_heads, 16), randn(4, n_kv, 9, 16), randn(4, n_kv, 9, 16)
    got = attention_decode(q, k, v, positions)
    for user in range(3):
        seen = positions[user] + 1
        for head in range(n_heads):
            kv = head // (n_heads // n_kv)
            scores = k[user, kv, :seen].astype(float) @ q[user, head] / 4
            share = np.exp(scores - scores.max())
            expected = share / share.sum() @ v[user, kv, :seen]
            np.testing.assert_allclose(got[user, head], expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(got).all()


def test_rotation_turns_pairs_by_position_times_frequency():
    inv_freq = np.float32([1.0, 0.1])
    table = RotaryTable(inv_freq, lambda x: x)
    x, positions = randn(3, 2, 4), np.array([0, 7, -1])
    got = rotate(x, *table.at(positions))
    pairs = x[..., :2].astype(complex) + 1j * x[..., 2:]
    turned = pairs * np.exp(1j * np.maximum(positions, 0)[:, None, None] * inv_freq)
    np.testing.assert_allclose(got[..., :2] + 1j * got[..., 2:], turned, rtol=1e-4, atol=1e-6)


def test_the_rotary_table_grows_without_changing():
    table = RotaryTable(np.float32([0.5]), lambda x: x)
    before = [a.copy() for a in table.at(np.array([3]))]
    table.at(np.array([5000]))
    for old, new in zip(before, table.at(np.array([3])), strict=True):
        np.testing.assert_array_equal(old, new)
