"""Meta's folders: parts of matrices over several files, and files that are broken or hostile."""

import json
import os
import pickle

import numpy as np
import pytest

from galaxy_mpi.checkpoints.meta import open_meta
from galaxy_mpi.checkpoints.model_files import model_sizes, open_model
from galaxy_mpi.errors import CheckpointError, ConfigError

torch = pytest.importorskip("torch")

PARAMS = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 48,
    "norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "use_scaled_rope": True,
}
HIDDEN = 40


def write_folder(folder, n_files=2, embedding_axis=0):
    """Write a random model; return its whole tensors."""
    torch.manual_seed(0)
    shapes = {"norm.weight": (32,), "tok_embeddings.weight": (48, 32), "output.weight": (48, 32)}
    for layer in range(2):
        p = f"layers.{layer}."
        shapes |= {
            p + "attention.wq.weight": (32, 32),
            p + "attention.wk.weight": (16, 32),
            p + "attention.wv.weight": (16, 32),
            p + "attention.wo.weight": (32, 32),
            p + "feed_forward.w1.weight": (HIDDEN, 32),
            p + "feed_forward.w2.weight": (32, HIDDEN),
            p + "feed_forward.w3.weight": (HIDDEN, 32),
            p + "attention_norm.weight": (32,),
            p + "ffn_norm.weight": (32,),
        }
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    files = [{} for _ in range(n_files)]
    for name, tensor in tensors.items():
        axis = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
        axis = embedding_axis if name.startswith("tok") else axis
        parts = [tensor] * n_files if tensor.ndim == 1 else tensor.chunk(n_files, dim=axis)
        for file, part in zip(files, parts, strict=True):
            file[name] = part.clone()
    for number, file in enumerate(files):
        torch.save(file, folder / f"consolidated.{number:02}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS))
    return tensors


@pytest.mark.parametrize(("n_files", "embedding_axis"), [(1, 0), (2, 0), (4, 1)])
def test_parts_of_all_files_are_put_together(tmp_path, n_files, embedding_axis):
    tensors = write_folder(tmp_path, n_files, embedding_axis)
    config = model_sizes(str(tmp_path))
    assert (config.hidden_dim, config.head_dim, config.vocab_size) == (HIDDEN, 8, 48)
    assert config.rope_scaling.factor == 8.0
    assert config.eos_tokens == ()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert model_sizes(str(tmp_path)).eos_tokens == (3, 4)
    checkpoint = pickle.loads(pickle.dumps(open_meta(tmp_path)))

    def whole(name):
        return tensors[name].float().numpy()

    for name, full in (
        ("w1", "feed_forward.w1"),
        ("w2", "feed_forward.w2"),
        ("wo", "attention.wo"),
    ):
        found = checkpoint.read(name, 1, slice(5, 30), slice(3, 31))
        np.testing.assert_array_equal(found, whole(f"layers.1.{full}.weight")[5:30, 3:31])
    heads = checkpoint.read("wq", 0, slice(8, 24), slice(None)).reshape(2, 8, 32)
    right = whole("layers.0.attention.wq.weight").reshape(4, 8, 32)[1:3]
    np.testing.assert_array_equal(heads, right[:, [0, 2, 4, 6, 1, 3, 5, 7]])
    rows = np.array([47, 0, 20])
    found = checkpoint.row_reader("embedding", slice(2, 9))(rows)
    np.testing.assert_array_equal(found, whole("tok_embeddings.weight")[rows, 2:9])
    with pytest.raises(IndexError):
        checkpoint.row_reader("embedding", slice(2, 9))(np.array([47, 48]))
    gain = checkpoint.read("ffn_norm", 1, slice(0, 1), slice(4, 20))
    np.testing.assert_array_equal(gain[0], whole("layers.1.ffn_norm.weight")[4:20])


def test_nothing_in_a_file_is_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    write_folder(tmp_path)
    torch.save({"norm.weight": Hostile()}, tmp_path / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match="consolidated.00.pth is damaged, cut short or holds"):
        open_meta(tmp_path)
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], tmp_path / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match="is not a dict of tensors"):
        open_meta(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 500, -10])
def test_a_file_cut_short(tmp_path, keep):
    write_folder(tmp_path)
    path = tmp_path / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="consolidated.01.pth"):
        open_meta(tmp_path)


def test_params_of_another_model_or_none(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMS | {"dim": 64}))
    with pytest.raises(CheckpointError, match=r"has shape .*, params.json asks for"):
        open_meta(tmp_path)
    path.write_text(json.dumps({k: v for k, v in PARAMS.items() if k != "n_heads"}))
    with pytest.raises(CheckpointError, match="lacks the field 'n_heads'"):
        open_meta(tmp_path)
    path.write_text(json.dumps(PARAMS))
    with pytest.raises(ConfigError, match="has 2 layers; ask for as many or fewer"):
        open_model(str(tmp_path), 3)
    for file in tmp_path.glob("*.pth"):
        file.unlink()
    with pytest.raises(CheckpointError, match="no consolidated"):
        open_meta(tmp_path)
