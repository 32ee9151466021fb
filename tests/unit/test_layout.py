"""Who has which heads, columns and tokens on meshes that a model does not divide by."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, Sharding
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.weights import Weight

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
        gate[chip.row] += x_part @ chip.read_weight(reader, Weight.W1, 0)
        qkv[chip.row] += x_part @ chip.read_weight(reader, Weight.WQKV, 0)
        y_part = columns(y, chip.row, layout.hidden)
        down[chip.col] += y_part @ chip.read_weight(reader, Weight.W2, 0)
        heads = np.zeros((layout.n_heads, 4))
        for number, slot in enumerate(layout.row_slots(chip.row)):
            for place, head in enumerate(slot.heads):
                at = number * layout.heads_per_slot + place
                heads[at] = z.reshape(9, 4)[head]
        out[chip.col] += heads.reshape(-1) @ chip.read_weight(reader, Weight.WO, 0)

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


class NumberedCheckpoint:
    """Every value of a stored matrix is its own number, from 1."""

    def __init__(self, model):
        c, heads, kv = model, model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
        self.shapes = {
            **dict.fromkeys(("w1", "w3"), (c.hidden_dim, c.dim)),
            "w2": (c.dim, c.hidden_dim),
            "wo": (c.dim, heads),
            "wq": (heads, c.dim),
            **dict.fromkeys(("wk", "wv"), (kv, c.dim)),
            **dict.fromkeys(("embedding", "output"), (c.vocab_size, c.dim)),
        }

    def whole(self, name):
        rows, cols = self.shapes[name]
        return np.arange(1, rows * cols + 1, dtype=np.float32).reshape(rows, cols)

    def read(self, name, layer, rows, cols):
        found = self.whole(name)[rows, cols]
        assert found.shape == (rows.stop - rows.start, cols.stop - cols.start)
        return found

    def row_reader(self, name, cols):
        return lambda rows: self.whole(name)[rows, cols]


@st.composite
def models(draw):
    """Draw small models of any sizes."""
    n_kv_heads, group = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    small = st.integers(1, 40)
    return replace(
        SMALL,
        dim=draw(small),
        hidden_dim=draw(small),
        vocab_size=draw(small),
        n_heads=n_kv_heads * group,
        n_kv_heads=n_kv_heads,
        head_dim=draw(st.sampled_from([2, 4])),
    )


MESHES = st.builds(Mesh, st.integers(1, 9), st.integers(1, 5))


def numbers(matrices):
    """Return how often each number is there, without zeros."""
    return Counter(
        n for matrix in matrices for n in matrix[matrix > 0].astype(np.int64).ravel().tolist()
    )


@given(model=models(), mesh=MESHES)
@settings(deadline=None, max_examples=80)
def test_every_weight_is_on_the_mesh_once_and_all_else_is_zeros(model, mesh):
    layout, reader = Layout(model, mesh), NumberedCheckpoint(model)
    chips = [Sharding(layout, rank) for rank in range(mesh.n_chips)]
    for weight in (Weight.W1, Weight.W2, Weight.W3, Weight.WO):
        rows, cols = reader.shapes[weight.value]
        parts = [chip.read_weight(reader, weight, 0) for chip in chips]
        assert numbers(parts) == Counter(range(1, rows * cols + 1))
        assert len({part.shape for part in parts}) == 1
    head = [chip.read_tokens(reader, "output", chip.row * layout.vocab, layout.vocab)
            for chip in chips]  # fmt: skip
    assert numbers(head) == Counter(range(1, model.vocab_size * model.dim + 1))
    tokens = np.arange(model.vocab_size)
    stream = [chip.embedding(reader)(tokens) for chip in chips[: mesh.cols]]
    assert numbers(stream) == Counter(range(1, model.vocab_size * model.dim + 1))
    assert sum(layout.n_valid_tokens(row) for row in range(mesh.rows)) == model.vocab_size


@given(model=models(), mesh=MESHES)
@settings(deadline=None, max_examples=80)
def test_every_query_head_is_there_once_and_a_kv_head_wherever_one_of_its_queries_is(model, mesh):
    layout, reader = Layout(model, mesh), NumberedCheckpoint(model)
    h, n_slots = model.head_dim, layout.slots_per_row
    queries, keys = [], Counter()
    for rank in range(mesh.n_chips):
        chip = Sharding(layout, rank)
        wqkv = chip.read_weight(reader, Weight.WQKV, 0)
        assert wqkv.shape == (layout.dim, (layout.n_heads + 2 * n_slots) * h)
        q, k, v = np.split(wqkv, [layout.n_heads * h, (layout.n_heads + n_slots) * h], axis=1)
        queries.append(q)
        np.testing.assert_array_equal(k, v)  # stored alike in this checkpoint
        keys += numbers([k])
    assert numbers(queries) == Counter(range(1, model.n_heads * h * model.dim + 1))
    copies = Counter(slot.kv_head for slot in layout.slots if slot.kv_head is not None)
    width = h * model.dim
    assert keys == Counter(
        {
            head * width + n: copies[head]
            for head in range(model.n_kv_heads)
            for n in range(1, width + 1)
        }
    )
    group = model.n_heads // model.n_kv_heads
    for slot in layout.slots:
        assert {head // group for head in slot.heads} <= {slot.kv_head}
    assert sorted(head for slot in layout.slots for head in slot.heads) == [*range(model.n_heads)]


def test_random_weights_do_not_depend_on_which_part_is_read():
    reader = RandomCheckpoint(SMALL)
    whole = reader.read("w1", 0, slice(None), slice(None))
    np.testing.assert_array_equal(reader.read("w1", 0, slice(3, 9), slice(5, 50)), whole[3:9, 5:])
    assert abs(whole.std() * SMALL.dim**0.5 - 1) < 0.1
    assert not np.array_equal(whole, reader.read("w3", 0, slice(None), slice(None)))
    rows = reader.row_reader("embedding", slice(1, 4))(np.array([7, 0, 7]))
    np.testing.assert_array_equal(rows[0], rows[2])


@given(st.permutations(range(72)), st.permutations(range(50)))
@settings(max_examples=10, deadline=None)
def test_any_order_of_columns_is_the_model(hidden, dim):
    class Shuffled(Layout):
        def hidden_at(self, row):
            mine = np.array(hidden)[row * 36 : (row + 1) * 36]
            return np.where(mine < 70, mine, -1)

        def dim_at(self, col):
            return np.array(dim)[col * 25 : (col + 1) * 25]

    layout, reader = Shuffled(SMALL, Mesh(2, 2)), RandomCheckpoint(SMALL)
    layout.check()
    whole = reader.read("w1", 0, slice(None), slice(None))
    for rank in range(4):
        row, col = layout.mesh.coord(rank)
        found = Sharding(layout, rank).read_weight(reader, Weight.W1, 0)
        numbers = layout.hidden_at(row)
        right = np.where(numbers[:, None] < 0, 0, whole[numbers][:, layout.dim_at(col)])
        np.testing.assert_array_equal(found, right.T)
