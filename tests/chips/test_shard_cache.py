"""Packed shards on disk: the same run from them, and from any broken one."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from galaxy_mpi.checkpoints import Checkpoint, locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
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
    later = time.time_ns() + 10**9
    os.utime(weights, ns=(later, later))
    reads.clear()
    tokens_of(run)
    assert reads


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    run = replace(RUN, weights_cache=Path("/proc/no/such"))
    assert tokens_of(run) == tokens_of(replace(RUN))
    with pytest.raises(ConfigError, match="is a file; name a folder, or off"):
        tokens_of(replace(RUN, weights_cache=locate("demo") / "config.json"))
    assert files(tmp_path) == []
