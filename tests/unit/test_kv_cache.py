from types import SimpleNamespace

import numpy as np
import pytest

from galaxy_mpi.dtypes import BFP8, FLOAT32
from galaxy_mpi.kernels import attention_decode
from galaxy_mpi.systems import Attention, KVCache, PageTable
from galaxy_mpi.systems.decode_attention import AttentionStep, LayersAttention
from galaxy_mpi.systems.kv_cache import CacheWriter, read_size
from galaxy_mpi.systems.workspace import Workspace

RNG = np.random.default_rng(5)


def heads(*shape):
    return RNG.standard_normal((*shape, 32)).astype(np.float32)


def writer(cache, n_users):
    """Return what writes to the cache where ``inputs.table`` says, and the inputs."""
    inputs = SimpleNamespace(table=None)
    both = np.empty((n_users, cache.n_kv_heads, 2, cache.head_dim), np.float32)
    return CacheWriter(cache, both, inputs), inputs


@pytest.mark.parametrize("page_size", [1, 5, 64])
@pytest.mark.parametrize("dtype", [FLOAT32, BFP8], ids=lambda d: d.name)
def test_what_is_filled_and_written_is_read_back_through_the_page_table(page_size, dtype):
    """Two users, blocks far apart; one is filled with 9 positions and then steps."""
    cache = KVCache(40, page_size, 2, 32, dtype=dtype)
    blocks = RNG.permutation(40)[:24].reshape(2, 12)
    if page_size == 1:
        blocks = RNG.permutation(40)[:40].reshape(2, 20)
    k, v = heads(12, 2), heads(12, 2)
    cache.fill(k[:6], v[:6], blocks[1], start=0)
    cache.fill(k[6:9], v[6:9], blocks[1], start=6)
    step, inputs = writer(cache, 3)
    for position in (9, 10, 11):
        step_k, step_v = heads(3, 2), heads(3, 2)
        step_k[2], step_v[2] = k[position], v[position]
        positions = np.array([position, -1, position])
        inputs.table = PageTable(positions, blocks[[0, 0, 1]], page_size)
        step.write(step_k, step_v)
    n_blocks = -(-12 // page_size)
    keys, values = cache.read(blocks[1, :n_blocks])
    assert keys.shape == (2, n_blocks * page_size, 32)
    np.testing.assert_array_equal(keys[:, :12].swapaxes(0, 1), dtype.round(k))
    np.testing.assert_array_equal(values[:, :12].swapaxes(0, 1), dtype.round(v))


def test_users_of_one_length_in_tiles_or_blocks_are_attended_together():
    blocks = np.arange(20).reshape(5, 4)
    table = PageTable(np.array([63, 64, -1, 0, 200]), blocks, 64)
    groups = [(places.tolist(), found.shape) for places, found in table.same_length]
    assert groups == [([3], (1, 1)), ([0], (1, 2)), ([1], (1, 4)), ([4], (1, 8))]
    assert table.same_length[2][1].tolist() == [[8, 9, 10, 11]]


@pytest.mark.parametrize(("page", "size"), [(64, 32), (32, 32), (1, 1), (48, 16), (8, 8)])
def test_attention_reads_a_tile_or_what_divides_page_and_tile(page, size):
    assert read_size(page) == size


def test_a_batch_of_nobody_has_no_groups_and_writes_nothing():
    cache = KVCache(4, 64, 1, 32, dtype=FLOAT32)
    table = PageTable(np.array([-1, -1]), np.full((2, 0), -1), 64)
    assert table.same_length == []
    step, inputs = writer(cache, 2)
    inputs.table = table
    step.write(heads(2, 1), heads(2, 1))
    assert not cache.rows.any()


def test_the_bytes_of_a_block():
    assert KVCache(7, 64, 1, 128, dtype=BFP8).block_bytes == 2 * 64 * (128 + 8)


@pytest.mark.parametrize("n_positions", [100, 3000])
@pytest.mark.parametrize("dtype", [FLOAT32, BFP8], ids=lambda d: d.name)
def test_attention_in_parts_is_that_over_everything_unpacked(n_positions, dtype):
    """Bit by bit; at 3,000 positions even one user is taken head by head."""
    n_users, n_kv, n_heads, page = 5, 3, 6, 64
    n_blocks = n_positions // page + 1
    cache = KVCache(n_users * n_blocks, page, n_kv, 32, dtype=dtype)
    blocks = RNG.permutation(n_users * n_blocks).reshape(n_users, n_blocks)
    for of_user in blocks:
        cache.fill(heads(n_positions, n_kv), heads(n_positions, n_kv), of_user, start=0)
    positions = np.full(n_users, n_positions - 1)
    positions[1] = -1
    inputs = SimpleNamespace(table=PageTable(positions, blocks, page))
    precision = SimpleNamespace(cuts_inputs=False, kv_cache=dtype)
    q, found = heads(n_users, n_heads), np.empty((n_users, n_heads, 32), np.float32)
    layers = LayersAttention(cache, inputs, precision, Attention(), Workspace(), q, found)
    AttentionStep(cache, layers).attend()
    expected = np.zeros_like(found)
    for user in (0, 2, 3, 4):
        k, v = cache.read(blocks[user])
        expected[user] = attention_decode(q[user, None], k[None], v[None], positions[user, None])
    np.testing.assert_array_equal(found, expected)


class Own(Attention):
    """A user's class: positions come from its argument, not from a prepared mask."""


@pytest.mark.parametrize("kind", [Attention, Own])
def test_layers_and_chips_of_one_workspace_do_not_disturb_each_other(kind):
    """Two chips with the same users, layers of two formats, and users that come, go and grow."""
    page, n_kv, n_heads, n_users = 64, 2, 4, 6
    blocks = RNG.permutation(n_users * 3).reshape(n_users, 3)
    workspace, inputs = Workspace(), SimpleNamespace(table=None)
    q, found = (np.empty((n_users, n_heads, 32), np.float32) for _ in range(2))
    layers = []
    for dtype in (BFP8, FLOAT32, BFP8) * 2:
        cache = KVCache(n_users * 3, page, n_kv, 32, dtype=dtype)
        for of_user in blocks:
            cache.fill(heads(3 * page, n_kv), heads(3 * page, n_kv), of_user, start=0)
        precision = SimpleNamespace(cuts_inputs=False, kv_cache=dtype)
        of_layer = LayersAttention(cache, inputs, precision, kind(), workspace, q, found)
        layers.append((cache, AttentionStep(cache, of_layer)))
    assert len(workspace.layers) == (2 if kind is Attention else 0)  # one of each format
    for positions in (
        [31, 32, -1, 63, 64, 190],
        [-1, -1, -1, 2, -1, -1],
        [5, 70, 5, 70, 5, -1],
        [150, 151, 152, 153, 154, 155],
        [-1, -1, -1, -1, -1, -1],
        [0, 1, -1, 2, -1, 3],
    ):
        inputs.table = PageTable(np.array(positions), blocks, page)
        for cache, step in layers:
            q[...] = heads(n_users, n_heads)
            found.fill(np.nan)
            step.attend()
            expected = np.zeros_like(found)
            for user, last in enumerate(positions):
                if last >= 0:
                    # To the end of the tile in the first page, behind it to the end of the page.
                    n_read = (last // 32 + 1) * 32 if last < page else (last // page + 1) * page
                    k, v = (values[None, :, :n_read] for values in cache.read(blocks[user]))
                    expected[user] = attention_decode(q[user, None], k, v, np.array([last]))
            np.testing.assert_array_equal(found, expected)
