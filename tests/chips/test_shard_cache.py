"""Packed shards on disk: the same run from them, and from any broken one."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from galaxy_mpi.checkpoints import Checkpoint, cache_folder, locate
from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import room
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models.presets import PRESETS
from tests.chips.playing import report_of
from tests.families import random_prompts, write_family

RUN = RunConfig(mesh=Mesh(2, 2), max_new_tokens=3, batch=4, prompt_tokens=random_prompts(4))


@pytest.fixture(name="reads")
def _reads(monkeypatch):
    """What is read of checkpoints, without embeddings."""
    names, read = [], Checkpoint.read

    def noted(self, name, *where):
        names.append(name)
        return read(self, name, *where)

    monkeypatch.setattr(Checkpoint, "read", noted)
    return names


def tokens_of(run):
    return report_of(run).tokens


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("precision", ["performance", "float32"])
def test_the_second_run_maps_what_the_first_has_packed(tmp_path, reads, precision):
    cache = tmp_path / "cache"
    plain = replace(RUN, precision=precision)
    run = replace(plain, weights_cache=cache)
    expected = tokens_of(plain)
    assert tokens_of(run) == expected
    kept = files(cache)
    assert [path.name for path in kept] == [f"rank{n:03}.safetensors" for n in range(4)]
    reads.clear()
    assert tokens_of(run) == expected
    assert reads == []
    assert files(cache) == kept


def test_biases_and_norms_of_heads_are_kept_too(tmp_path):
    for family in ("qwen2", "qwen3"):
        folder = write_family(family, tmp_path / family)
        run = replace(RUN, model=str(folder), weights_cache=tmp_path / "cache")
        assert tokens_of(run) == tokens_of(run) == tokens_of(replace(run, weights_cache=None))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "another rank's", "no header"])
def test_a_broken_file_is_made_anew(tmp_path, reads, damage):
    run = replace(RUN, weights_cache=tmp_path)
    expected = tokens_of(run)
    first, second, *_ = files(tmp_path)
    good = first.read_bytes()
    first.write_bytes(
        {
            "cut": good[:-100],
            "empty": b"",
            "flipped": good[:-50] + bytes([good[-50] ^ 1]) + good[-49:],
            "another rank's": second.read_bytes(),
            "no header": bytes(8) + good[8:],
        }[damage]
    )
    reads.clear()
    assert tokens_of(run) == expected
    assert reads  # one rank has packed again
    assert first.read_bytes() == good


def test_a_changed_model_another_mesh_or_precision_have_their_own(tmp_path, reads):
    folder = write_family("llama", tmp_path / "model")
    run = replace(RUN, model=str(folder), weights_cache=tmp_path / "cache")
    tokens_of(run)
    for other in (
        replace(run, mesh=Mesh(1, 2)),
        replace(run, precision="accuracy"),
        replace(run, n_layers=1),
    ):
        reads.clear()
        assert tokens_of(other) == tokens_of(replace(other, weights_cache=None))
        assert reads
    weights = next(folder.glob("*.safetensors"))
    content, status = bytearray(weights.read_bytes()), weights.stat()
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights.stat().st_size == status.st_size
    reads.clear()
    assert tokens_of(run) == tokens_of(replace(run, weights_cache=None))
    assert reads  # same size, same time, another value in the middle


def test_the_same_weights_are_kept_once(tmp_path, reads):
    folder = write_family("llama", tmp_path / "model")
    run = replace(RUN, model=str(folder), weights_cache=tmp_path / "cache")
    tokens_of(run)
    kept = files(tmp_path / "cache")
    later = time.time_ns() + 10**9
    for path in folder.glob("*.safetensors"):
        os.utime(path, ns=(later, later))
    shutil.copytree(folder, tmp_path / "copy")
    reads.clear()
    tokens_of(run)
    tokens_of(replace(run, model=str(tmp_path / "copy")))
    assert reads == []
    assert files(tmp_path / "cache") == kept


@pytest.mark.parametrize("damage", ["metadata", "names", "shapes", "offsets", "longer"])
def test_a_torn_header_is_made_anew_once(tmp_path, reads, damage):
    run = replace(RUN, weights_cache=tmp_path)
    expected = tokens_of(run)
    first, *_ = files(tmp_path)
    good = first.read_bytes()
    n = 8 + int.from_bytes(good[:8], "little")
    header = json.loads(good[8:n])
    names = [name for name in header if name != "__metadata__"]
    if damage == "metadata":
        header["__metadata__"] = {"galaxy_mpi": "[]"}
    elif damage == "names":
        header["x"] = header.pop(names[0])
    elif damage == "shapes":
        header[names[0]]["shape"] = [[]]
        header[names[0]]["data_offsets"] = {}
    elif damage == "offsets":
        header[names[0]]["data_offsets"] = [10**40, 2]
    text = json.dumps(header).encode()
    bad = len(text).to_bytes(8, "little") + text + good[n:]
    first.write_bytes(bad + b"x" if damage == "longer" else bad)
    for n_reads in (True, False):
        reads.clear()
        assert tokens_of(run) == expected
        assert bool(reads) is n_reads
    assert first.read_bytes() == good


def test_what_others_could_have_written_is_not_used(tmp_path, reads):
    run = replace(RUN, weights_cache=tmp_path / "cache")
    expected = tokens_of(run)
    first, *_ = files(tmp_path / "cache")
    for path in (first, first.parent, first.parent.parent):
        assert path.stat().st_mode & 0o077 == 0
        mode = path.stat().st_mode
        path.chmod(mode | 0o022)
        reads.clear()
        assert tokens_of(run) == expected
        assert reads
        path.chmod(mode)
    first.rename(first.with_name("elsewhere"))
    first.symlink_to(first.with_name("elsewhere"))
    reads.clear()
    assert tokens_of(run) == expected
    assert reads
    assert not first.is_symlink()  # replaced by a file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_owns_is_not_used(tmp_path, reads):
    run = replace(RUN, weights_cache=tmp_path / "cache")
    tokens_of(run)
    first, *_ = files(tmp_path / "cache")
    os.chown(first, 65534, 65534)
    reads.clear()
    tokens_of(run)
    assert reads


def test_drafts_of_runs_that_were_killed_are_removed(tmp_path):
    run = replace(RUN, weights_cache=tmp_path)
    tokens_of(run)
    folder = files(tmp_path)[0].parent
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    node, mine = os.uname().nodename, os.getpid()
    left = {
        f".draft-{node}-{int(gone.stdout)}-0123abcd": False,
        f".draft-{node}-{mine}-0123abcd": True,
        ".draft-another-host-1-0123abcd": True,
        ".rank000.safetensors.77": False,
        "mine.txt": True,
    }
    for name in left:
        (folder / name).write_text("x")
    long_ago = time.time() - 100_000
    os.utime(folder / ".rank000.safetensors.77", (long_ago, long_ago))
    for path in folder.glob("rank*"):
        path.unlink()
    tokens_of(run)
    assert {name: (folder / name).exists() for name in left} == left


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    run = replace(RUN, weights_cache=Path("/proc/no/such"))
    assert tokens_of(run) == tokens_of(replace(RUN))
    with pytest.raises(ConfigError, match="is a file; name a folder, or off"):
        tokens_of(replace(RUN, weights_cache=locate("demo") / "config.json"))
    assert files(tmp_path) == []


def test_weights_that_are_made_up_are_kept_in_a_folder_that_was_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    tiny = replace(PRESETS["smollm2-135m"], dim=128, hidden_dim=256, n_heads=4, n_kv_heads=4)
    monkeypatch.setitem(PRESETS, "tiny", replace(tiny, head_dim=32, n_layers=1, vocab_size=512))
    run = replace(RUN, model="tiny", weights_cache=tmp_path / "named")
    expected = tokens_of(replace(run, weights_cache=None))
    assert tokens_of(run) == expected
    assert len(files(tmp_path / "named")) == 4
    written = [path.read_bytes() for path in files(tmp_path / "named")]
    monkeypatch.setattr(RandomCheckpoint, "read", None)  # nothing is read any more
    assert tokens_of(run) == expected
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "tiny", replace(tiny, head_dim=32, n_layers=1, vocab_size=512))
    assert tokens_of(replace(run, weights_cache=tmp_path / "again")) == expected
    assert [path.read_bytes() for path in files(tmp_path / "again")] == written
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert tokens_of(replace(run, weights_cache=cache_folder() / "shards")) == expected
    assert files(tmp_path / "user") == []


def test_a_disk_without_room_is_refused_with_the_bytes_before_anything_is_read(
    tmp_path, monkeypatch, reads
):
    run = replace(RUN, weights_cache=tmp_path / "cache")
    monkeypatch.setattr(room, "free_disk_bytes", lambda folder: 1_000_000)
    monkeypatch.setattr(room, "available_bytes", lambda: 2_000_000)
    with pytest.raises(ConfigError, match=r"of 4 chips, \d{7} bytes, of which .* for 1000000,"):
        tokens_of(run)
    assert reads == []
    assert files(tmp_path) == []
    monkeypatch.setattr(room, "free_disk_bytes", lambda folder: 10**9)
    tokens_of(run)  # mapped, so the memory is enough
    assert len(files(tmp_path)) == 4
