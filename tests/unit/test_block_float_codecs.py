"""The compiled codec against numpy's: the same bits, whatever the bits and wherever they lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi.dtypes import BFloat16, BlockFloat
from galaxy_mpi.dtypes.compiled_codec import CompiledCodecs, NotBuiltError
from galaxy_mpi.dtypes.numpy_codec import NumpyCodecs
from tests.unit.test_block_float import CASES, GOLDEN

try:
    LEVELS = [CompiledCodecs(level) for level in range(CompiledCodecs().n_levels)]
except NotBuiltError:
    LEVELS = []

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, for infinities
needs_compiled = pytest.mark.skipif(not LEVELS, reason="the compiled codec was not built")
BITS = {"bfloat8_b": 7, "bfloat4_b": 3, "bfloat16": 0}
NUMPY = NumpyCodecs()


def formats(codecs):
    return {
        "bfloat8_b": BlockFloat("bfloat8_b", 7, codecs),
        "bfloat4_b": BlockFloat("bfloat4_b", 3, codecs),
        "bfloat16": BFloat16(codecs),
    }


each_format = pytest.mark.parametrize("name", BITS)
each_level = pytest.mark.parametrize("codecs", LEVELS, ids=lambda c: f"level{c.level}")


def same(a, b):
    """Bit for bit, but NaN is NaN: which of two a sum keeps is the processor's choice."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.dtype == np.float32:
        both_nan = np.isnan(a) & np.isnan(b)
        a, b = np.where(both_nan, 0, a.view(np.uint32)), np.where(both_nan, 0, b.view(np.uint32))
    return a.shape == b.shape and (a == b).all()


def same_packed(name, a, b):
    """As `same`, for packed bytes; block floats have no NaN."""
    if name != "bfloat16":
        return same(a, b)
    return same(*((x.view(np.uint16).astype(np.uint32) << 16).view(np.float32) for x in (a, b)))


def apart(shape, dtype, gap, fill=None):
    """An array of a shape, its rows ``gap`` bytes further apart than need be, and unaligned."""
    rows, width = shape
    row_bytes = width * np.dtype(dtype).itemsize
    memory = np.full(gap + rows * (row_bytes + gap), 0xA5, np.uint8)
    view = np.ndarray(shape, dtype, memory, gap, (row_bytes + gap, np.dtype(dtype).itemsize))
    if fill is not None:
        view[...] = fill
    return memory, view


@st.composite
def values(draw, shape):
    """Bits of every kind: all exponents, one exponent, a spread around one, special values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bits = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    kind = draw(st.sampled_from(["any", "one exponent", "spread", "special", "ties"]))
    exponent = draw(st.integers(0, 255))
    if kind == "any":
        return bits.view(np.float32)
    spread = {"one exponent": 0, "spread": draw(st.integers(1, 40)), "special": 3, "ties": 6}[kind]
    exponents = np.clip(exponent - rng.integers(0, spread + 1, shape), 0, 255).astype(np.uint32)
    if kind == "ties":
        bits &= np.uint32(0x80FF8000 if draw(st.booleans()) else 0x80F80000)
    out = (bits & 0x807FFFFF | exponents << 23).astype(np.uint32).view(np.float32)
    if kind == "special":
        some = np.array([np.inf, -np.inf, np.nan, -np.nan, 0, -0.0, 1e-45, -1e-39], np.float32)
        out[rng.random(shape) < 0.1] = rng.choice(some)
    return out


shapes = st.tuples(st.integers(0, 70), st.integers(0, 100))
gaps = st.sampled_from([0, 1, 3, 4, 64])


@needs_compiled
@each_level
@each_format
@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=shapes, gap=gaps)
def test_pack_and_round_are_numpys(name, codecs, data, shape, gap):
    given_values = data.draw(values(shape))
    numpy, compiled = formats(NUMPY)[name].codec(shape), formats(codecs)[name].codec(shape)
    assert compiled.n_bytes == numpy.n_bytes == formats(NUMPY)[name].packed_bytes(shape)
    _, strided = apart(shape, np.float32, gap, given_values)
    packed = np.empty(numpy.n_bytes, np.uint8)
    numpy.pack(given_values, packed)
    memory = np.full(gap + numpy.n_bytes + 1, 0xA5, np.uint8)
    compiled.pack(strided, memory[gap:-1])
    assert same(memory[gap:-1], packed)
    assert (memory[:gap] == 0xA5).all()  # nothing beside it
    assert memory[-1] == 0xA5
    rounded = np.empty(shape, np.float32)
    numpy.round(given_values, rounded)
    compiled.round(strided, strided)  # in place
    assert same(strided, rounded)
    unpacked = np.empty(shape, np.float32)
    compiled.unpack(memory[gap:-1], unpacked)
    assert same(unpacked, rounded)


@needs_compiled
@each_level
@each_format
@settings(max_examples=60, deadline=None)
@given(shape=shapes, gap=gaps, members=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_any_bytes_unpack_and_add_up_as_in_numpy(name, codecs, shape, gap, members, seed):
    numpy, compiled = formats(NUMPY)[name].codec(shape), formats(codecs)[name].codec(shape)
    blocks = np.random.default_rng(seed).integers(0, 256, (members, numpy.n_bytes), np.uint8)
    table = apart(blocks.shape, np.uint8, gap, blocks)[1]
    wanted = np.empty(shape, np.float32)
    memory, got = apart(shape, np.float32, gap)
    numpy.unpack(blocks[0], wanted)
    compiled.unpack(table[0], got)
    assert same(got, wanted)
    n_pairs = -(-shape[0] // 2)
    beside, pairs = apart((n_pairs, shape[1]), np.uint32, gap)
    for codec, packed in ((numpy, blocks[0]), (compiled, table[0])):
        pairs[...] = 1
        codec.unpack_pairs(packed, pairs)
        rows = np.stack([pairs << 16, pairs & 0xFFFF0000], axis=1).reshape(2 * n_pairs, shape[1])
        assert same(rows[: shape[0]].view(np.float32), wanted)  # exact
        assert not rows[shape[0] :].any()
        pairs[...] = 0xA5A5A5A5
        assert (beside == 0xA5).all()  # nothing beside them
    numpy.add_terms(blocks, wanted)
    compiled.add_terms(table, got)
    assert same(got, wanted)
    packed, wanted_packed = (np.empty(numpy.n_bytes, np.uint8) for _ in range(2))
    numpy.pack_sum(blocks, wanted_packed, wanted)
    compiled.pack_sum(table, packed, got)
    assert same_packed(name, packed, wanted_packed)
    assert same(got, wanted)
    got[...] = np.full(1, 0xA5A5A5A5, np.uint32).view(np.float32)
    assert (memory == 0xA5).all()  # nothing beside the values
    again = np.empty_like(packed)
    compiled.pack_sum(table, again)
    assert same(again, packed)


@needs_compiled
@each_level
@each_format
@settings(max_examples=40, deadline=None)
@given(data=st.data(), shape=shapes, gap=gaps)
def test_rows_are_numpys(name, codecs, data, shape, gap):
    given_values = data.draw(values(shape))
    numpy, compiled = (
        formats(NUMPY)[name].row_codec(*shape),
        formats(codecs)[name].row_codec(*shape),
    )
    assert compiled.row_bytes == numpy.row_bytes == formats(NUMPY)[name].row_bytes(shape[1])
    _, wanted = apart((shape[0], numpy.row_bytes), np.uint8, gap)
    memory, packed = apart((shape[0], numpy.row_bytes), np.uint8, gap)
    numpy.pack(given_values, wanted)
    compiled.pack(apart(shape, np.float32, gap, given_values)[1], packed)
    assert same(packed, wanted)
    out, wanted_out = np.empty(shape, np.float32), np.empty(shape, np.float32)
    numpy.unpack(wanted, wanted_out)
    compiled.unpack(packed, out)
    assert same(out, wanted_out)
    packed[...] = 0xA5
    assert (memory == 0xA5).all()  # nothing beside the rows


@needs_compiled
@each_level
@pytest.mark.parametrize("case", CASES)
def test_tiles_and_values_are_the_vendors(codecs, case):
    given_values = GOLDEN[f"{case}_in"]
    for name in ("bfloat8_b", "bfloat4_b"):
        dtype = formats(codecs)[name]
        golden = GOLDEN[f"{case}_{name}_tiles"].reshape(-1)
        np.testing.assert_array_equal(dtype.pack(given_values), golden)
    for name, dtype in formats(codecs).items():
        if case != "nonfinite" or name == "bfloat16":
            np.testing.assert_array_equal(dtype.round(given_values), GOLDEN[f"{case}_{name}"])


@needs_compiled
@each_level
def test_every_bfloat16_and_every_tie_between_two(codecs):
    patterns = np.arange(1 << 16, dtype=np.uint16).reshape(64, 1024)
    codec = codecs.bfloat16(*patterns.shape)
    out = np.empty(patterns.shape, np.float32)
    codec.unpack(patterns.view(np.uint8).reshape(-1), out)
    assert (out.view(np.uint32) == patterns.astype(np.uint32) << 16).all()
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        word = patterns.astype(np.uint32) << 16 | np.uint32(low)
        packed = np.empty(codec.n_bytes, np.uint8)
        codec.pack(word.view(np.float32), packed)
        for pattern, got in zip(word.reshape(-1)[::7], packed.view(np.uint16)[::7], strict=True):
            pattern = int(pattern)
            if pattern & 0x7FFFFFFF > 0x7F800000:
                wanted = pattern >> 16 & 0x8000 | 0x7FC0
            else:
                rest, wanted = pattern & 0xFFFF, pattern >> 16
                wanted += rest > 0x8000 or (rest == 0x8000 and wanted & 1)
            assert int(got) == wanted


@needs_compiled
@each_level
@pytest.mark.parametrize("bits", [7, 3])
def test_every_block_exponent_with_every_datum(codecs, bits):
    """Expected: the definition in Python's own floats, as float32."""
    codec, n_data = codecs.block_rows(bits, 256, 256), 1 << bits + 1
    rows = np.empty((256, codec.row_bytes), np.uint8)
    rows[:, :16] = np.arange(256)[:, None]
    data = np.arange(256) % n_data
    rows[:, 16:] = data if bits == 7 else data[0::2] | data[1::2] << 4
    out = np.empty((256, 256), np.float32)
    codec.unpack(rows, out)
    for exponent in range(256):
        for datum in range(n_data):
            magnitude = (datum & (n_data // 2 - 1)) * 2.0 ** (exponent - 127 - (bits - 1))
            wanted = -magnitude if datum >= n_data // 2 and magnitude else magnitude
            wanted = np.float64(wanted).astype(np.float32)
            assert out[exponent, datum].tobytes() == wanted.tobytes()


@needs_compiled
@each_format
def test_leading_dims_are_rows_and_other_arrays_are_refused(name):
    for codecs in (NUMPY, LEVELS[-1]):
        codec = formats(codecs)[name].codec((3, 2, 40))
        packed = np.empty(codec.n_bytes, np.uint8)
        wide = np.random.default_rng(0).standard_normal((3, 2, 64)).astype(np.float32)
        codec.pack(wide[..., :40], packed)
        out = np.empty((6, 40), np.float32)
        codec.unpack(packed, out)
        assert same(out.reshape(3, 2, 40), formats(NUMPY)[name].round(wide[..., :40]))
        for wrong in (
            wide,
            wide[..., ::2][..., :20],
            wide.T[:40].T[:2],
            wide[:, :, ::-1][..., :40],
        ):
            with pytest.raises(ValueError):
                codec.pack(wrong, packed)
        unequal = np.empty((3, 4, 40), np.float32)[:, :3:2]
        unequal = np.lib.stride_tricks.as_strided(unequal, (3, 2, 40), (640, 160, 4))
        with pytest.raises(ValueError):
            codec.unpack(packed, unequal)
        with pytest.raises(ValueError):
            codec.unpack(packed[:-1], out)
