import numpy as np
import pytest

from galaxy_mpi.engine.block_pool import BlockPool, prefix_keys


def test_low_numbers_come_first_and_come_back():
    pool = BlockPool(3)
    assert [pool.allocate() for _ in range(3)] == [0, 1, 2]
    assert pool.n_available == 0
    pool.release([1])
    pool.release([0])
    assert pool.allocate() == 0
    assert (pool.n_available, pool.peak) == (1, 3)


def test_a_key_tells_a_block_by_all_that_comes_before_it():
    keys = prefix_keys([1, 2, 3, 4, 5, 6, 7], 2)
    assert len(keys) == len(set(keys)) == 3
    assert prefix_keys([1, 2, 3, 4], 2) == keys[:2]
    assert prefix_keys([9, 2, 3, 4, 5, 6], 2)[1:] != keys[1:]
    assert prefix_keys([1], 2) == []


def test_a_remembered_block_is_found_shared_and_kept_until_it_is_needed():
    pool = BlockPool(2)
    a, b = pool.allocate(), pool.allocate()
    pool.remember(a, b"a")
    pool.remember(b, b"ab")
    assert pool.find([b"a", b"ab", b"abc"]) == [a, b]
    assert pool.find([b"x", b"ab"]) == []
    pool.share([a])
    pool.release([a, b])
    assert pool.n_available == 1  # the second user of a is still there
    pool.release([a])
    assert pool.n_available == 2
    assert pool.find([b"a", b"ab"]) == [a, b]
    assert pool.allocate() == b  # unused for longest, and the end before the beginning
    assert pool.find([b"a", b"ab"]) == [a]


def test_the_same_beginning_computed_twice_is_remembered_once():
    pool = BlockPool(2)
    a, b = pool.allocate(), pool.allocate()
    pool.remember(a, b"a")
    pool.remember(b, b"a")
    pool.release([b])
    assert pool.find([b"a"]) == [a]
    assert pool.allocate() == b


@pytest.mark.parametrize("seed", range(5))
def test_no_block_is_lost_or_given_twice(seed):
    """Random users come, share, remember and go."""
    rng = np.random.default_rng(seed)
    pool, users = BlockPool(20), []
    for turn in range(400):
        if users and (rng.random() < 0.4 or pool.n_available < 6):
            pool.release(users.pop(rng.integers(len(users))))
        else:
            keys = [bytes([rng.integers(6), n]) for n in range(3)]
            blocks = pool.find(keys)
            pool.share(blocks)
            blocks += [pool.allocate() for _ in range(5 - len(blocks))]
            for block, key in zip(blocks, keys, strict=False):
                pool.remember(block, key)
            users.append(blocks)
        held = {block for blocks in users for block in blocks}
        assert len(held) + pool.n_available == 20, turn
    for blocks in users:
        pool.release(blocks)
    assert pool.n_available == 20
    assert sorted(pool.allocate() for _ in range(20)) == list(range(20))
