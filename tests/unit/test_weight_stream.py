"""Large weights that are multiplied piece by piece, and the compiled product that does it."""

import numpy as np
import pytest

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, FLOAT32, PackedTensor
from galaxy_mpi.engine import chips
from galaxy_mpi.kernels import compiled_product
from galaxy_mpi.prefetch import WeightId, WeightStream
from galaxy_mpi.prefetch.stream import piece_rows
from galaxy_mpi.program import Codecs
from galaxy_mpi.systems.decode_attention import Workspace

_product = pytest.importorskip("galaxy_mpi.kernels._product")

LEVELS = range(_product.N_LEVELS)
SHAPES = ((1, 2, 1), (32, 128, 64), (7, 10, 50), (9, 66, 33), (33, 4, 15))


def halves(values):
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def operands(shape, seed=0):
    rows, depth, width = shape
    rng = np.random.default_rng(seed)
    x = BF16.round(rng.standard_normal((rows, depth)).astype(np.float32))
    return x, BF16.round(rng.standard_normal((depth, width)).astype(np.float32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_is_exact_but_for_the_rounding_of_sums(shape, level):
    x, w = operands(shape)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    beside = np.full((shape[0], shape[2] + 3), 7, np.float32)
    out = beside[:, 1:-2]
    _product.add_product(halves(x), halves(w), out, False, level)
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6 * shape[1])
    _product.add_product(halves(x), halves(w), out, True, level)
    np.testing.assert_allclose(out, 2 * exact, rtol=0, atol=2e-6 * shape[1])
    assert (beside[:, 0] == 7).all()
    assert (beside[:, -2:] == 7).all()


@pytest.mark.parametrize("level", LEVELS)
def test_bits_of_a_row_do_not_depend_on_other_rows(level):
    x, w = operands((21, 96, 80))
    together = np.empty((21, 80), np.float32)
    _product.add_product(halves(x), halves(w), together, False, level)
    for start, stop in ((0, 1), (3, 12), (20, 21)):
        apart = np.empty((stop - start, 80), np.float32)
        _product.add_product(halves(x[start:stop]), halves(w), apart, False, level)
        np.testing.assert_array_equal(apart, together[start:stop])


@pytest.mark.parametrize("level", LEVELS)
def test_infinities_and_nan_stay(level):
    x, w = operands((2, 4, 40))
    w[1, 3], w[2, 5], x[1, 0] = np.inf, np.nan, -np.inf
    out = np.empty((2, 40), np.float32)
    _product.add_product(halves(x), halves(w), out, False, level)
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float64) @ w
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(out), np.isinf(expected))


@pytest.mark.parametrize(
    ("x", "w", "out", "about"),
    [
        ((2, 3), (3, 4), (2, 4), "even"),
        ((2, 4), (6, 4), (2, 4), "cannot multiply"),
        ((2, 4), (4, 4), (2, 5), "cannot multiply"),
        ((2, 4), (4, 4), (4,), "wanted 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, w, out, about):
    arrays = np.zeros(x, np.uint16), np.zeros(w, np.uint16), np.zeros(out, np.float32)
    with pytest.raises(ValueError, match=about):
        _product.add_product(*arrays, False, 0)


def test_other_items_levels_and_strides_are_refused():
    x, w, out = (np.zeros((2, 2), kind) for kind in (np.uint16, np.uint16, np.float32))
    with pytest.raises(ValueError, match="items f"):
        _product.add_product(out, w, out, False, 0)
    with pytest.raises(ValueError, match="items d"):
        _product.add_product(x, w, np.zeros((2, 2)), False, 0)
    with pytest.raises(ValueError, match="rows contiguous"):
        _product.add_product(x, w.T[::1], np.zeros((2, 4), np.float32)[:, ::2], False, 0)
    with pytest.raises(ValueError, match="no level"):
        _product.add_product(x, w, out, False, _product.N_LEVELS)


class Chip:
    """As much of a chip's program under construction as a stream needs."""

    def __init__(self):
        self.workspace, self._codecs, self.calls = Workspace(), Codecs(), []

    def codec(self, dtype, shape):
        return self._codecs.get(dtype, shape)

    def bytes(self, *shape):
        return np.empty(shape, np.uint8)

    def call(self, function, *arguments):
        self.calls.append((function, arguments))

    def run(self):
        for function, arguments in self.calls:
            function(*arguments)


@pytest.mark.parametrize("dtype", [BFP8, BFP4, BF16], ids=str)
@pytest.mark.parametrize("depth", [64, 1024, 700])
def test_pieces_add_up_to_the_whole(dtype, depth):
    # Small integers, so that every order of additions has the same bits.
    rng = np.random.default_rng(1)
    w = rng.integers(-3, 4, (depth, 1600)).astype(np.float32)
    x = rng.integers(-5, 6, (32, depth)).astype(np.float32)
    tensor = PackedTensor.of(w, dtype)
    chip, out = Chip(), np.empty((32, 1600), np.float32)
    weight = WeightId(0, "w1")
    stream = WeightStream({weight: tensor}, _product.add_product, max(LEVELS), 1)
    stream.multiply(chip, weight, x, out)
    chip.run()
    np.testing.assert_array_equal(out, x @ w)
    assert (piece_rows(w.shape) < depth) == (depth > 320)
    assert stream.piece_bytes() == 2 * 1600 * min(depth, 320)


def test_rows_that_are_not_read_are_zeros_and_the_others_keep_their_bits():
    x, w = operands((40, 64, 48))
    weight, tensor = WeightId(0, "w2"), PackedTensor.of(w, BFP8)
    stream = WeightStream({weight: tensor}, _product.add_product, max(LEVELS), 1)
    whole, some, all_of_them = (np.full((40, 48), np.nan, np.float32) for _ in range(3))
    rows, chip = np.array([3, 4, 39]), Chip()
    stream.multiply(chip, weight, x, whole)
    stream.multiply(chip, weight, x, some, lambda: rows)
    stream.multiply(chip, weight, x, all_of_them, lambda: np.arange(40))
    chip.run()
    expected = np.zeros_like(whole)
    expected[rows] = whole[rows]
    np.testing.assert_array_equal(some, expected)
    np.testing.assert_array_equal(all_of_them, whole)


def test_small_weights_odd_depths_and_float32_are_not_streamed():
    packed = {
        WeightId(n, "w1"): PackedTensor.of(np.zeros(shape, np.float32), dtype)
        for n, (shape, dtype) in enumerate(
            (((64, 64), BFP8), ((63, 65), BFP8), ((64, 64), FLOAT32), ((64, 63), BFP8))
        )
    }
    stream = WeightStream(packed, None, 0, 64 * 64)
    assert [stream.has(weight) for weight in packed] == [True, False, False, False]


@pytest.mark.skipif(compiled_product() is None, reason="no fast product on this processor")
@pytest.mark.parametrize("mesh", ["2x2", "8x4"])
def test_streamed_weights_give_the_tokens_of_whole_ones(monkeypatch, mesh):
    from galaxy_mpi.generator import Generator, create_model

    prompts = ["The galaxy", "Once upon a time there was", "1 2 3 4"]
    found = {}
    for least in (2**20, 1):
        monkeypatch.setattr(chips, "WORTH_TORCH", least)
        with Generator(create_model("demo", mesh=mesh, max_seq_len=128)) as generator:
            held = generator.model.chips
            assert (held.piece_bytes > 0) == (held.largest == 0) == (least == 1)
            logits = generator.prefill_forward([generator.model.encode(p) for p in prompts])
            texts = [one.text for one in generator.generate(prompts, 8)]
        found[least] = logits, texts
    (whole, texts), (streamed, streamed_texts) = found.values()
    assert np.abs(streamed - whole).max() <= 0.05 * np.abs(whole).max()
    assert streamed_texts == texts


def test_a_fidelity_that_cuts_a_weight_is_not_streamed():
    from galaxy_mpi.kernels import Fidelity
    from galaxy_mpi.systems import PRECISIONS

    performance = PRECISIONS["performance"]
    assert all(performance.reads_whole(name) for name in ("wqkv", "wo", "w1", "w2", "lm_head"))
    from dataclasses import replace

    cut = replace(performance, fidelities=(("li_ff2", Fidelity.LOFI),))
    assert not cut.reads_whole("w2")
    assert cut.reading_all_bits().reads_whole("w2")


def test_activations_are_cut_only_where_their_format_has_more_bits_than_are_used():
    from dataclasses import replace

    from galaxy_mpi.systems import PRECISIONS

    performance = PRECISIONS["performance"]
    for name in ("w1", "w3", "w2", "lm_head"):
        assert performance.activation_mask(name, "decode") is None  # bfloat8_b has 6 bits
    for name in ("wqkv", "wo", "w1", "w3", "w2", "lm_head"):
        assert performance.activation_mask(name, "prefill") is None
    for name in ("wqkv", "wo"):  # of bfloat16: the norm of layer 0, attention
        assert performance.activation_mask(name, "decode") == 0xFFFE0000
    fine = replace(performance, decode=replace(performance.decode, act=BF16))
    assert fine.activation_mask("w2", "decode") == 0xFFFE0000
    assert fine.reading_all_bits().activation_mask("w2", "decode") is None
