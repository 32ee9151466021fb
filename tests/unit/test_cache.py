"""What is kept of packed weights, and what is thrown away."""

import os
import time

import pytest

from galaxy_mpi import cache
from galaxy_mpi.checkpoints.fingerprint import fingerprint
from galaxy_mpi.models.shard_folder import entries, prune

DAY_S = 86_400


@pytest.fixture(name="root")
def _root(tmp_path):
    """Three models of 4, 2 and 1 KiB, last used 1, 10 and 40 days ago; and what is no model."""
    for number, (kib, days) in enumerate(((4, 1), (2, 10), (1, 40))):
        folder = tmp_path / f"{number:032x}" / "8x4-performance-4"
        folder.mkdir(parents=True)
        for rank in range(2):
            path = folder / f"rank{rank:03}.safetensors"
            path.write_bytes(bytes(512 * kib))
            used = time.time() - days * DAY_S
            os.utime(path, (used, used))
    for path in (tmp_path / "notes.txt", tmp_path / "other" / "rank000.safetensors"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    return tmp_path


def left(root):
    return [int(entry.folder.parent.name, 16) for entry in entries(root)]


def test_entries_are_told_the_last_used_first(root):
    found = entries(root)
    assert [(e.n_files, e.n_bytes) for e in found] == [(2, 4096), (2, 2048), (2, 1024)]
    assert entries(root / "nowhere") == []


def test_what_is_old_goes_and_then_the_oldest_of_what_is_too_much(root):
    assert len(prune(root)) == 1
    assert left(root) == [0, 1]
    prune(root, n_bytes=5000)
    assert left(root) == [0]
    assert not (root / f"{1:032x}").exists()
    prune(root, n_bytes=0, keep=entries(root)[0].folder)
    assert left(root) == [0]
    prune(root, n_bytes=0)
    assert left(root) == []
    assert sorted(p.name for p in root.rglob("*") if p.is_file()) == [
        "notes.txt",
        "rank000.safetensors",
    ]


def test_the_command_lists_prunes_and_clears(root, capsys):
    where = ["--weights-cache", str(root)]
    assert cache.main(where) == 0
    told = capsys.readouterr().out
    assert told.count("8x4-performance-4") == 3
    assert f"3 entries, 0.0 MiB, in {root}" in told
    assert cache.main(["prune", *where, "--days", "5"]) == 0
    assert "2 entries" in capsys.readouterr().out
    assert cache.main(["clear", *where]) == 0
    assert left(root) == []
    assert (root / "notes.txt").exists()
    assert cache.main(["drop", *where]) == 2
    assert cache.main(["prune", *where, "--days", "nan"]) == 2
    assert "no action 'drop'; choose list, prune, clear" in capsys.readouterr().err


def test_the_list_fits_80_columns_whatever_the_names_of_entries(root, capsys):
    entry = root / f"{0:032x}" / "8x4-performance-4"
    entry.rename(entry.with_name("2x2-performance-c2988fee-4-DealtOut-771f7072"))
    cache.main(["--weights-cache", str(root)])
    *rows, _ = capsys.readouterr().out.splitlines()
    assert max(map(len, rows)) <= 80
    assert rows[1] == f"{'0' * 8}  2x2-performance-c2988fee-4-DealtOut-771f7072"
    assert rows[2][46:].split()[:2] == ["2", "0.0"]


def test_every_byte_of_a_small_model_counts_and_every_tensor_of_a_large_one(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(100_000))
    pieces = [(path, 0, 60_000), (path, 60_000, 40_000)]
    before = fingerprint(pieces, "x")
    assert fingerprint(pieces, "y") != before
    assert fingerprint(list(reversed(pieces)), "x") != before
    for at in (0, 31_234, 59_999, 60_000, 99_999):
        changed = bytearray(100_000)
        changed[at] = 1
        path.write_bytes(changed)
        assert fingerprint(pieces, "x") != before
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**28)
    pieces = [(large, n * 2**20, 2**20) for n in range(2**8)]
    before = fingerprint(pieces, "x")
    for n in (0, 100, 255):  # a tensor that is another one all over
        with large.open("r+b") as file:
            file.seek(n * 2**20)
            file.write(b"\x01" * 2**20)
        after = fingerprint(pieces, "x")
        assert after != before
        before = after
