"""Who has which heads, columns and tokens on meshes that a model does not divide by."""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.checkpoints import RandomCheckpoint
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, Sharding
from galaxy_mpi.models.presets import PRESETS

SMALL = replace(
    PRESETS["llama3-8b"],
    dim=50,
    hidden_dim=70,
    n_layers=1,
    n_heads=9,
    n_kv_heads=3,
    head_dim=4,
    vocab_size=101,
)


@pytest.mark.parametrize("heads", [(9, 3), (64, 8), (14, 2), (5, 5), (32, 1), (20, 5)])
@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x4", "3x1", "5x2", "8x4", "32x1"])
def test_every_query_head_is_computed_once_beside_its_kv_head(heads, mesh):
    n_heads, n_kv_heads = heads
    config = replace(SMALL, n_heads=n_heads, n_kv_heads=n_kv_heads)
    layout = Layout(config, Mesh.parse(mesh))
    assert len(layout.slots) == layout.slots_per_row * layout.mesh.rows
    found = [head for slot in layout.slots for head in slot.heads]
    assert found == list(range(n_heads))
    for slot in layout.slots:
        assert len(slot.heads) <= layout.heads_per_slot
        assert {head // (n_heads // n_kv_heads) for head in slot.heads} <= {slot.kv_head}


@pytest.mark.parametrize(
    ("name", "mesh"), [("llama3-70b", "8x4"), ("llama3-8b", "1x8"), ("qwen3-32b", "8x4")]
)
def test_what_divides_is_not_padded(name, mesh):
    layout = Layout(PRESETS[name], Mesh.parse(mesh))
    assert layout.padding == []
    assert layout.overhead == 1.0


def test_padding_is_told_with_what_it_costs():
    layout = Layout(SMALL, Mesh(8, 4))
    assert layout.padding == [
        "kv heads 3 -> 8, 2 of them zeros",
        "query heads 9 -> 16",
        "dim 50 -> 52",
        "feed-forward 70 -> 96",
        "vocabulary 101 -> 104",
    ]
    own = 50 * (2 * 9 + 2 * 3) * 4 + 3 * 50 * 70
    assert layout.overhead == 52 * ((2 * 16 + 2 * 8) * 4 + 3 * 96) / own
    assert [layout.n_valid_tokens(row) for row in (0, 6, 7)] == [13, 13, 10]
    tiny = Layout(replace(SMALL, vocab_size=5), Mesh(8, 4))
    assert [tiny.n_valid_tokens(row) for row in range(8)] == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x4", "8x4"])
def test_shards_put_together_are_the_model_and_zeros(mesh):
    """The products of all chips, summed as the ops sum them, are the whole model's product."""
    mesh = Mesh.parse(mesh)
    layout, reader = Layout(SMALL, mesh), RandomCheckpoint(SMALL)
    whole = slice(None)
    rng = np.random.default_rng(0)
    x, y, z = (rng.standard_normal(n) for n in (SMALL.dim, SMALL.hidden_dim, 36))

    def columns(vector, col, width):
        part = vector[col * width : (col + 1) * width]
        return np.concatenate([part, np.zeros(width - len(part))])

    chips = [Sharding(layout, rank) for rank in range(mesh.n_chips)]
    gate = np.zeros((mesh.rows, layout.hidden))
    down = np.zeros((mesh.cols, layout.dim))
    qkv = np.zeros((mesh.rows, (layout.n_heads + 2 * layout.slots_per_row) * 4))
    out = np.zeros((mesh.cols, layout.dim))
    for chip in chips:
        x_part = columns(x, chip.col, layout.dim)
        gate[chip.row] += x_part @ chip.read_weight(reader, "w1", 0)
        qkv[chip.row] += x_part @ chip.read_weight(reader, "wqkv", 0)
        y_part = columns(y, chip.row, layout.hidden)
        down[chip.col] += y_part @ chip.read_weight(reader, "w2", 0)
        heads = np.zeros((layout.n_heads, 4))
        for number, slot in enumerate(layout.row_slots(chip.row)):
            for place, head in enumerate(slot.heads):
                at = number * layout.heads_per_slot + place
                heads[at] = z.reshape(9, 4)[head]
        out[chip.col] += heads.reshape(-1) @ chip.read_weight(reader, "wo", 0)

    def same(found, name, vector, size):
        expected = reader.read(name, 0, whole, whole).astype(np.float64) @ vector
        found = found.reshape(-1)
        np.testing.assert_allclose(found[:size], expected, rtol=1e-6, atol=1e-6)
        assert not found[size:].any()

    same(gate, "w1", x, SMALL.hidden_dim)
    same(down, "w2", y, SMALL.dim)
    same(out, "wo", z, SMALL.dim)
    queries = qkv[:, : layout.n_heads * 4].reshape(-1, layout.heads_per_slot, 4)
    keys = qkv[:, layout.n_heads * 4 :].reshape(mesh.rows, 2, layout.slots_per_row, 4)
    all_q = (reader.read("wq", 0, whole, whole) @ x).reshape(9, 4)
    all_k = (reader.read("wk", 0, whole, whole) @ x).reshape(3, 4)
    keys = keys[:, 0].reshape(-1, 4)
    for number, slot in enumerate(layout.slots):
        heads = list(slot.heads)
        np.testing.assert_allclose(queries[number, : len(heads)], all_q[heads], atol=1e-5)
        assert not queries[number, len(heads) :].any()
        if slot.kv_head is None:
            assert not keys[number].any()
        else:
            np.testing.assert_allclose(keys[number], all_k[slot.kv_head], atol=1e-5)


def test_random_weights_do_not_depend_on_which_part_is_read():
    reader = RandomCheckpoint(SMALL)
    whole = reader.read("w1", 0, slice(None), slice(None))
    np.testing.assert_array_equal(reader.read("w1", 0, slice(3, 9), slice(5, 50)), whole[3:9, 5:])
    assert abs(whole.std() * SMALL.dim**0.5 - 1) < 0.1
    assert not np.array_equal(whole, reader.read("w3", 0, slice(None), slice(None)))
    rows = reader.read_rows("embedding", np.array([7, 0, 7]), slice(1, 4))
    np.testing.assert_array_equal(rows[0], rows[2])
