"""Tensors in mapped files, when a file changes under the reader."""

import numpy as np
import pytest

from galaxy_mpi.checkpoints.stored import FileMaps, Stored
from galaxy_mpi.errors import CheckpointError


def stored_in(path):
    return Stored(path, "w1", "F32", (4, 8), 16, 4 * 4 * 8)


def test_rows_and_columns_are_read_from_their_place(tmp_path):
    path = tmp_path / "weights"
    values = np.arange(32, dtype="<f4").reshape(4, 8)
    path.write_bytes(bytes(16) + values.tobytes())
    maps = FileMaps()
    assert (maps.reader(stored_in(path), slice(2, 8))(slice(1, 3)) == values[1:3, 2:8]).all()
    assert (maps.reader(stored_in(path), slice(0, 1))(np.array([3, 0])) == [[24], [0]]).all()


@pytest.mark.parametrize("n_bytes", [143, 20, 1])
def test_a_file_that_became_shorter_is_a_line(tmp_path, n_bytes):
    path = tmp_path / "weights"
    path.write_bytes(bytes(n_bytes))
    said = f"truncated while it was read: w1 ends at byte 144, the file now at {n_bytes}; copy"
    with pytest.raises(CheckpointError, match=said):
        FileMaps().reader(stored_in(path), slice(0, 8))


def test_a_file_that_became_empty_or_vanished_is_a_line(tmp_path):
    path = tmp_path / "weights"
    with pytest.raises(CheckpointError, match="No such file"):
        FileMaps().reader(stored_in(path), slice(0, 8))
    path.touch()
    with pytest.raises(CheckpointError, match="it is empty"):
        FileMaps().reader(stored_in(path), slice(0, 8))
