"""Large weights that are multiplied piece by piece."""

import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi.dtypes import (
    BF16,
    BFP4,
    BFP8,
    FLOAT32,
    TILE,
    Bfloat16Factors,
    Float32Factors,
    PackedTensor,
    padded,
)
from galaxy_mpi.engine import chips
from galaxy_mpi.kernels import chosen_product
from galaxy_mpi.kernels.bfloat16_product import Bfloat16Product, NoKernelError
from galaxy_mpi.kernels.multiply import NumpyProduct, TorchProduct
from galaxy_mpi.prefetch import ProductRows, WeightStream
from galaxy_mpi.prefetch.pieces import piece_rows
from galaxy_mpi.prefetch.prompt_rows import spread
from galaxy_mpi.prefetch.stream import PIECE_VALUES
from galaxy_mpi.program import Codecs
from galaxy_mpi.systems.workspace import Workspace
from galaxy_mpi.weights import Weight, WeightId

PRODUCTS = {"numpy": NumpyProduct, "torch": TorchProduct, "bfloat16": Bfloat16Product}


def made_product(name):
    if name not in PRODUCTS:
        return OrderedByHeight()
    if name == "torch":
        pytest.importorskip("torch")
    try:
        return PRODUCTS[name]()
    except NoKernelError as error:
        pytest.skip(str(error))


@pytest.fixture(params=PRODUCTS)
def product(request):
    return made_product(request.param)


def operands(shape, seed=0):
    rows, depth, width = shape
    rng = np.random.default_rng(seed)
    x = BF16.round(rng.standard_normal((rows, depth)).astype(np.float32))
    return x, BF16.round(rng.standard_normal((depth, width)).astype(np.float32))


class Chip:
    """As much of a chip's program under construction as a stream needs."""

    def __init__(self):
        self.workspace, self._codecs, self.calls = Workspace(), Codecs(), []

    def codec(self, dtype, shape):
        return self._codecs.get(dtype, shape)

    def call(self, function, *arguments):
        self.calls.append((function, arguments))

    def run(self):
        for function, arguments in self.calls:
            function(*arguments)


@pytest.mark.parametrize("dtype", [BFP8, BFP4, BF16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("depth", [64, 1024, 701])
def test_pieces_add_up_to_the_whole(product, dtype, depth):
    # Small integers, so that every order of additions has the same bits.
    rng = np.random.default_rng(1)
    w = rng.integers(-3, 4, (depth, 1600)).astype(np.float32)
    x = rng.integers(-5, 6, (32, depth)).astype(np.float32)
    tensor = PackedTensor.of(w, dtype)
    chip, out = Chip(), np.empty((32, 1600), np.float32)
    weight = WeightId(0, Weight.W1)
    stream = WeightStream({weight: tensor}, product, 1)
    stream.multiply(chip, weight, x, out)
    chip.run()
    np.testing.assert_array_equal(out, x @ w)
    rows = piece_rows(w.shape, PIECE_VALUES)
    assert (rows < depth) == (depth > 320)
    size = product.factors.value_bytes
    assert stream.piece_bytes(prefill=False) == size * 1600 * rows
    assert rows <= 320
    most = size * 1600 * min(depth, 640)
    assert most >= stream.piece_bytes(prefill=True) >= stream.piece_bytes(prefill=False)


def test_products_keep_all_bits_of_the_factors(product):
    x, w = operands((32, 128, 64))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    chip, out = Chip(), np.empty((32, 64), np.float32)
    weight, tensor = WeightId(0, Weight.W1), PackedTensor.of(w, BF16)
    WeightStream({weight: tensor}, product, 1).multiply(chip, weight, x, out)
    chip.run()
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6 * 128)


class OrderedByHeight:
    """A product that adds in another order if a matrix has more than 128 rows."""

    name = "ordered by height"
    needs_term = False
    factors = Float32Factors()

    def bind(self, x, w, out, term, *, adds):
        def multiply():
            order = slice(None) if len(x) <= 128 else slice(None, None, -1)
            total = np.zeros_like(out)
            for column, row in zip(x.T[order], w[order], strict=True):
                total += column[:, None] * row
            out[:] = out + total if adds else total

        return [(multiply, ())]

    def ready(self):
        return nullcontext()


def prompt_rows(lengths):
    """Return the rows of prompts of so many tokens, each padded to whole tiles."""
    used, blocks, at = [], [], 0
    for length in lengths:
        used.append(slice(at, at + length))
        stop = at + padded(length, TILE)
        blocks += [slice(start, min(start + 128, stop)) for start in range(at, stop, 128)]
        at = stop
    return ProductRows(tuple(blocks), lambda: used)


LENGTHS = (40, 7, 130, 1, 32, 64, 100)


@pytest.mark.parametrize("made", [*PRODUCTS, "ordered by height"])
def test_a_prompt_has_the_bits_that_it_has_alone(made):
    product = made_product(made)
    rows = prompt_rows(LENGTHS)
    x, w = operands((rows.blocks[-1].stop, 96, 48))
    weight, tensor = WeightId(0, Weight.W2), PackedTensor.of(w, BFP8)
    stream = WeightStream({weight: tensor}, product, 1)
    chip, out = Chip(), np.full((len(x), 48), np.nan, np.float32)
    stream.multiply(chip, weight, x, out, rows)
    chip.run()
    for length, used in zip(LENGTHS, rows.used(), strict=True):
        own = x[used.start : used.start + padded(length, TILE)]
        alone = np.empty((len(own), 48), np.float32)
        chip = Chip()
        stream.multiply(chip, weight, own, alone, prompt_rows([length]))
        chip.run()
        np.testing.assert_array_equal(out[used], alone[:length])
        assert not out[used.stop : used.start + len(own)].any()
        assert out[used].any()


@pytest.mark.parametrize("made", [*PRODUCTS, "ordered by height"])
@pytest.mark.parametrize("n_users", [1, 9, 200])
def test_one_row_of_each_prompt_is_written_packed(made, n_users):
    product = made_product(made)
    kept = [TILE * user + 7 * user % TILE for user in range(n_users)]
    tiles = tuple(slice(TILE * user, TILE * (user + 1)) for user in range(n_users))
    x, w = operands((TILE * n_users, 64, 48))
    weight, tensor = WeightId(0, Weight.LM_HEAD), PackedTensor.of(w, BFP8)
    stream = WeightStream({weight: tensor}, product, 1)
    chip, out = Chip(), np.empty((padded(n_users, TILE), 48), np.float32)
    rows = ProductRows(tiles, lambda: [slice(row, row + 1) for row in kept])
    stream.multiply(chip, weight, x, out, rows, packs=True)
    chip.run()
    for user in {0, n_users // 2, n_users - 1}:
        chip, whole = Chip(), np.empty((TILE, 48), np.float32)
        stream.multiply(chip, weight, x[tiles[user]], whole)
        chip.run()
        np.testing.assert_array_equal(out[user], whole[kept[user] - TILE * user])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=8))
def test_packed_rows_move_to_where_they_belong(parts):
    used, at = [], 0
    for length, padding in parts:
        used.append(slice(at, at + length))
        at += length + padding
    n_rows = sum(length for length, _ in parts)
    values = np.full((at, 2), -1, np.float32)
    values[:n_rows] = np.arange(1, n_rows + 1)[:, None]
    expected = np.zeros_like(values)
    start = 0
    for rows in used:
        stop = start + rows.stop - rows.start
        expected[rows], start = values[start:stop], stop
    spread(values, used)
    np.testing.assert_array_equal(values, expected)


def test_without_such_instructions_torch_multiplies_float32(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert isinstance(chosen_product(), TorchProduct)


def test_a_kernel_that_does_something_else_is_not_used(monkeypatch):
    made_product("bfloat16")
    assert isinstance(chosen_product(), Bfloat16Product)
    words = Bfloat16Factors.words
    monkeypatch.setattr(Bfloat16Factors, "words", lambda self, values: words(self, values + 1))
    assert isinstance(chosen_product(), TorchProduct)


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize("most", ["AVX2", "AVX512_CORE"])
def test_instructions_that_onednn_must_not_use_are_not_used(name, most):
    """In a process of its own: oneDNN reads the variable once, and its kernel would abort."""
    pytest.importorskip("torch")
    code = "from galaxy_mpi.kernels import chosen_product; print(chosen_product().name)"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, name: most},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "float32\n"), ended.stderr


def test_small_weights_and_float32_are_not_streamed():
    packed = {
        WeightId(n, Weight.W1): PackedTensor.of(np.zeros(shape, np.float32), dtype)
        for n, (shape, dtype) in enumerate(
            (((64, 64), BFP8), ((63, 64), BFP8), ((64, 64), FLOAT32), ((64, 63), BFP8))
        )
    }
    stream = WeightStream(packed, NumpyProduct(), 64 * 64)
    assert [stream.has(weight) for weight in packed] == [True, False, False, False]


@pytest.mark.parametrize("mesh", ["2x2", "8x4"])
def test_streamed_weights_give_the_tokens_of_whole_ones(monkeypatch, mesh):
    from galaxy_mpi.generator import Generator, create_model

    prompts = ["The galaxy", "Once upon a time there was", "1 2 3 4"]
    found = {}
    for least in (2**20, 1):
        monkeypatch.setattr(chips, "LARGE", least)
        with Generator(create_model("demo", mesh=mesh, max_seq_len=128)) as generator:
            held = generator.model.chips
            assert (held.piece_bytes(prefill=True) > 0) == (held.largest == 0) == (least == 1)
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
    assert all(performance.reads_whole(name) for name in Weight)
    from dataclasses import replace

    cut = replace(performance, fidelities=(("li_ff2", Fidelity.LOFI),))
    assert not cut.reads_whole(Weight.W2)
    assert cut.reading_all_bits().reads_whole(Weight.W2)


def test_activations_are_cut_only_where_their_format_has_more_bits_than_are_used():
    from dataclasses import replace

    from galaxy_mpi.systems import PRECISIONS

    performance = PRECISIONS["performance"]
    for name in (Weight.W1, Weight.W3, Weight.W2, Weight.LM_HEAD):
        assert performance.activation_mask(name, "decode") is None  # bfloat8_b has 6 bits
    for name in Weight:
        assert performance.activation_mask(name, "prefill") is None
    for name in (Weight.WQKV, Weight.WO):  # of bfloat16: the norm of layer 0, attention
        assert performance.activation_mask(name, "decode") == 0xFFFE0000
    fine = replace(performance, decode=replace(performance.decode, act=BF16))
    assert fine.activation_mask(Weight.W2, "decode") == 0xFFFE0000
    assert fine.reading_all_bits().activation_mask(Weight.W2, "decode") is None
