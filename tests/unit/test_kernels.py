"""Kernels against plain float64 arithmetic, written another way."""

import numpy as np
import pytest

from galaxy_mpi.dtypes import BFP4, BFP8
from galaxy_mpi.kernels import (
    Fidelity,
    RotaryTable,
    attention_decode,
    attention_prefill,
    column_parts,
    rms_scale,
    rotate,
    silu_mul,
    sum_of_squares,
)
from galaxy_mpi.systems import PRECISIONS
from galaxy_mpi.weights import Weight

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
    positions = np.array([0, 4, 8])
    q, k, v = randn(3, n_heads, 16), randn(3, n_kv, 9, 16), randn(3, n_kv, 9, 16)
    got = attention_decode(q, k, v, positions)
    for user in range(3):
        seen = positions[user] + 1
        for head in range(n_heads):
            kv = head // (n_heads // n_kv)
            scores = k[user, kv, :seen].astype(float) @ q[user, head] / 4
            share = np.exp(scores - scores.max())
            expected = share / share.sum() @ v[user, kv, :seen]
            np.testing.assert_allclose(got[user, head], expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize(("n_heads", "n_kv"), [(1, 1), (4, 1), (6, 2)])
@pytest.mark.parametrize(("n_queries", "start"), [(1, 0), (128, 0), (300, 0), (160, 1024)])
def test_blockwise_attention_is_attention(n_heads, n_kv, n_queries, start):
    q, k, v = randn(n_queries, n_heads, 16), *(randn(n_kv, start + n_queries, 16) for _ in "kv")
    got = attention_prefill(q * 3, k, v, start=start)
    for head in range(n_heads):
        keys, values = (t[head // (n_heads // n_kv)].astype(float) for t in (k, v))
        scores = 3 * q[:, head].astype(float) @ keys.T / 4
        scores[np.arange(len(keys)) > start + np.arange(n_queries)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = weights / weights.sum(axis=1, keepdims=True) @ values
        np.testing.assert_allclose(got[:, head], expected, rtol=2e-4, atol=2e-5)


def test_a_query_gets_the_same_bits_whoever_else_is_asked():
    q, k, v = randn(640, 4, 32), randn(2, 640, 32), randn(2, 640, 32)
    whole = attention_prefill(q, k, v, start=0)
    for start in (128, 256, 512):
        part = attention_prefill(q[start:], k, v, start=start)
        assert part.tobytes() == whole[start:].tobytes()
    alone = attention_prefill(q[256:384], k[:, :384].copy(), v[:, :384].copy(), start=256)
    assert alone.tobytes() == whole[256:384].tobytes()


def test_fidelity_cuts_what_the_multipliers_do_not_read():
    values = np.array([1.9999999, -1.9999999, 1 + 2**-5, 0.0, 3 * 2.0**-130], np.float32)
    np.testing.assert_array_equal(
        Fidelity.LOFI.weight(values)[:4], np.array([1.9375, -1.9375, 1.0, 0.0], np.float32)
    )
    np.testing.assert_array_equal(
        Fidelity.LOFI.activation(values)[:3],
        np.array([1.984375, -1.984375, 1.03125], np.float32),
    )
    np.testing.assert_array_equal(Fidelity.HIFI2.weight(values), values)
    np.testing.assert_array_equal(Fidelity.HIFI4.activation(values), values)


def test_fidelities_read_all_of_the_formats_they_are_used_with():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 64)).astype(np.float32)
    for fidelity, dtype in ((Fidelity.LOFI, BFP4), (Fidelity.HIFI2, BFP8)):
        rounded = dtype.round(values)
        assert fidelity.reads_whole(dtype)
        np.testing.assert_array_equal(fidelity.weight(rounded), rounded)
    eight = BFP8.round(values)
    assert not Fidelity.LOFI.reads_whole(BFP8)
    assert (Fidelity.LOFI.weight(eight) != eight).any()
    np.testing.assert_array_equal(Fidelity.LOFI.activation(eight), eight)
    performance, accuracy = PRECISIONS["performance"], PRECISIONS["accuracy"]
    assert performance.fidelity(Weight.W1) is Fidelity.LOFI
    assert performance.fidelity(Weight.W2) is accuracy.fidelity(Weight.W1) is Fidelity.HIFI2


@pytest.mark.parametrize("shape", [(32, 144, 256), (8, 576, 570), (32, 64, 1000), (128, 300, 70)])
def test_parts_of_the_columns_add_up_to_the_product(shape):
    rows, depth, width = shape
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (rows, depth)).astype(np.float32)
    w = rng.integers(-3, 4, (depth, width)).astype(np.float32)
    parts = column_parts(*shape)
    assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert (parts[0].start, parts[-1].stop) == (0, width)
    np.testing.assert_array_equal(np.concatenate([x @ w[:, p] for p in parts], axis=1), x @ w)
    if len(parts) > 1:
        assert all(rows * depth * (part.stop - part.start) <= 10**6 for part in parts)
