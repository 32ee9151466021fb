import numpy as np
import pytest

from galaxy_mpi.systems import PrefillPass, PrefillUser
from galaxy_mpi.systems.prefill_pass import causal_pairs, padded_length, query_chunks


def user(n_tokens: int, start: int = 0) -> PrefillUser:
    return PrefillUser(np.arange(n_tokens), start, 0, np.arange(64))


@pytest.mark.parametrize(
    ("n_tokens", "length"),
    [
        (1, 128),
        (128, 128),
        (129, 1024),
        (1024, 1024),
        (1025, 2048),
        (2048, 2048),
        (4097, 8192),
        (100_000, 131_072),
        (131_072, 131_072),
    ],
)
def test_padded_lengths(n_tokens, length):
    assert padded_length(n_tokens) == length


@pytest.mark.parametrize("n_columns", [2, 3, 4, 8])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_each_query_has_one_column_and_each_column_equal_causal_work(n_columns, blocks):
    length = 2 * n_columns * 128 * blocks
    owner = np.full(length, -1)
    work = []
    for column in range(n_columns):
        chunks = list(query_chunks(length, n_columns, column))
        for chunk in chunks:
            assert (owner[chunk] == -1).all()
            owner[chunk] = column
        work.append(causal_pairs(chunks))
        # Counted one by one: query s sees s + 1 keys.
        assert work[-1] == sum(s + 1 for chunk in chunks for s in range(chunk.start, chunk.stop))
    assert set(owner) == set(range(n_columns))
    assert len(set(work)) == 1


def test_which_passes_share_queries_over_the_columns():
    assert PrefillPass((user(1025),)).shape.is_distributed(4)
    assert PrefillPass((user(8192),)).shape.is_distributed(4)
    assert not PrefillPass((user(1024),)).shape.is_distributed(4)
    assert not PrefillPass((user(2000, start=128),)).shape.is_distributed(4)  # something is cached
    assert not PrefillPass((user(2000),)).shape.is_distributed(1)
    assert not PrefillPass((user(2000),)).shape.is_distributed(3)  # 2048 does not cut in 6 chunks
    assert PrefillPass((user(3000),)).shape.is_distributed(16)
    assert not PrefillPass((user(2000),)).shape.is_distributed(
        16
    )  # chunks of 64 are no whole blocks
    assert not PrefillPass((user(100),) * 16, n_parts=32).shape.is_distributed(4)


def test_long_is_decided_by_the_rows_of_the_device():
    assert not PrefillPass((user(2048),)).shape.is_long
    assert PrefillPass((user(2049),)).shape.is_long
    assert PrefillPass((user(1),) * 16, n_parts=32).shape.is_long
    assert not PrefillPass((user(1),) * 16, n_parts=16).shape.is_long


def test_the_host_carries_whole_tiles_of_what_is_there():
    work = PrefillPass((user(33), user(1), user(128)), n_parts=32)
    assert [rows for rows, _ in work.parts] == [slice(0, 64), slice(64, 96), slice(96, 224)]
    assert work.shape.row_blocks == (slice(0, 64), slice(64, 96), slice(96, 224))
    assert work.shape.n_rows == 224
    assert work.tokens[:34].tolist() == [*range(33), 0]
    assert work.positions[60:68].tolist() == [60, 61, 62, 63, 0, 1, 2, 3]
    alone = PrefillPass((user(300, start=256),))
    assert alone.shape.row_blocks == (slice(0, 128), slice(128, 256), slice(256, 320))
    assert alone.positions[[0, -1]].tolist() == [256, 575]


def test_passes_of_the_same_rows_share_their_program_and_others_do_not():
    assert PrefillPass((user(33),)).shape == PrefillPass((user(64),)).shape
    assert hash(PrefillPass((user(33),)).shape) == hash(PrefillPass((user(64),)).shape)
    shapes = {
        work.shape
        for work in (
            PrefillPass((user(64),)),
            PrefillPass((user(65),)),
            PrefillPass((user(64, start=128),)),
            PrefillPass((user(64),), n_parts=32),
            PrefillPass((user(64), user(1)), n_parts=32),
        )
    }
    assert len(shapes) == 5
