"""Block floats against the vendor's own library, and against their definition."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, FLOAT32, PackedTensor

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "blockfloat_ttnn.npz")
CASES = sorted(name[:-3] for name in GOLDEN.files if name.endswith("_in"))
FINITE = [case for case in CASES if case != "nonfinite"]
BLOCK_FLOATS = pytest.mark.parametrize("dtype", [BFP8, BFP4], ids=lambda d: d.name)


def by_definition(values: np.ndarray, magnitude_bits: int) -> np.ndarray:
    """Round one block of 16 with Python integers, as the format's description says."""
    bits = [int(b) for b in np.asarray(values, np.float32).view(np.uint32)]
    shared = max((b >> 23) & 0xFF for b in bits)
    shift = 24 - magnitude_bits
    out = []
    for b in bits:
        own = (b >> 23) & 0xFF
        significand = (b & 0x7FFFFF) | 1 << 23 if own else 0
        significand >>= min(shared - own, 24)
        quantum, rest, half = significand >> shift, significand % (1 << shift), 1 << (shift - 1)
        quantum += rest > half or (rest == half and quantum % 2 == 1)
        quantum = min(quantum, 2**magnitude_bits - 1)
        out.append((-1 if b >> 31 else 1) * quantum * 2.0 ** (shared - 127 - magnitude_bits + 1))
    return np.array(out)


@BLOCK_FLOATS
@pytest.mark.parametrize("case", CASES)
def test_packed_tiles_are_those_of_the_vendor(dtype, case):
    packed = dtype.pack(GOLDEN[f"{case}_in"])
    np.testing.assert_array_equal(packed, GOLDEN[f"{case}_{dtype.name}_tiles"].reshape(-1))


@BLOCK_FLOATS
@pytest.mark.parametrize("case", FINITE)
def test_values_are_those_of_the_vendor(dtype, case):
    values = GOLDEN[f"{case}_in"]
    golden = GOLDEN[f"{case}_{dtype.name}"]
    np.testing.assert_array_equal(dtype.round(values), golden)
    np.testing.assert_array_equal(dtype.unpack(dtype.pack(values), values.shape), golden)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_values_are_those_of_the_vendor(case):
    values, golden = GOLDEN[f"{case}_in"], GOLDEN[f"{case}_bfloat16"]
    np.testing.assert_array_equal(BF16.round(values), golden)
    np.testing.assert_array_equal(BF16.unpack(BF16.pack(values), values.shape), golden)


@BLOCK_FLOATS
def test_rounding_follows_the_definition_over_the_whole_range_of_exponents(dtype):
    rng = np.random.default_rng(7)
    for spread in (0, 3, 12, 30):
        for centre in (1, 10, 24, 60, 127, 200, 250):
            exponents = np.clip(centre + rng.integers(-spread, 1, (8, 16)), 0, 254)
            bits = (
                exponents << 23
                | rng.integers(0, 1 << 23, (8, 16))
                | (rng.integers(0, 2, (8, 16)) << 31)
            )
            values = bits.astype(np.uint32).view(np.float32)
            for block, rounded in zip(values, dtype.round(values), strict=True):
                expected = by_definition(block, dtype.magnitude_bits).astype(np.float32)
                np.testing.assert_array_equal(rounded, expected)


@pytest.mark.parametrize("dtype", [FLOAT32, BF16, BFP8, BFP4], ids=lambda d: d.name)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 17), (32, 64), (33, 31), (2, 5, 48), (0, 16), (4, 0)]
)
def test_packing_is_rounding_at_any_shape(dtype, shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    packed = dtype.pack(values)
    assert packed.nbytes == dtype.packed_bytes(shape)
    rounded = dtype.round(values)
    unpacked = dtype.unpack(packed, shape)
    assert unpacked.tobytes() == rounded.tobytes()
    out = np.full(shape, np.nan, np.float32)
    assert dtype.unpack(packed, shape, out) is out
    np.testing.assert_array_equal(out, rounded)
    if values.size:
        assert dtype.round(rounded).tobytes() == rounded.tobytes()


@pytest.mark.parametrize("dtype", [FLOAT32, BF16, BFP8, BFP4], ids=lambda d: d.name)
@pytest.mark.parametrize("width", [16, 40, 128])
def test_rows_pack_by_themselves(dtype, width):
    values = np.random.default_rng(2).standard_normal((3, 2, 5, width)).astype(np.float32)
    packed = dtype.pack_rows(values)
    assert packed.shape == (3, 2, 5, dtype.row_bytes(width))
    np.testing.assert_array_equal(dtype.unpack_rows(packed, width), dtype.round(values))
    assert dtype.pack_rows(values[:0]).shape == (0, 2, 5, dtype.row_bytes(width))


def test_bytes_of_the_wire_are_the_devices():
    assert [BFP8.packed_bytes((32, n)) for n in (2048, 3584)] == [69_632, 121_856]
    assert BFP4.packed_bytes((32, 32)) == 576
    assert BF16.packed_bytes((32, 1280)) == 81_920
    assert (BFP8.tile_bytes, BFP4.tile_bytes, BF16.tile_bytes) == (1088, 576, 2048)


def test_rounding_error_is_within_half_a_unit_or_a_whole_one_at_saturation():
    values = np.random.default_rng(3).standard_normal((64, 16)).astype(np.float32)
    exponent = np.floor(np.log2(np.abs(values).max(axis=1, keepdims=True)))
    for dtype in (BFP8, BFP4):
        unit = 2.0 ** (exponent - (dtype.magnitude_bits - 1))
        error = np.abs(dtype.round(values) - values)
        saturated = np.abs(values) >= unit * (2**dtype.magnitude_bits - 0.5)
        assert (error <= np.where(saturated, unit, unit / 2)).all()


def test_a_packed_tensor_remembers_its_shape():
    values = np.random.default_rng(4).standard_normal((40, 70)).astype(np.float32)
    tensor = PackedTensor.of(values, BFP8)
    assert tensor.data.nbytes == 2 * 3 * 1088
    assert tensor.unpacked_bytes == 40 * 70 * 4
    np.testing.assert_array_equal(tensor.unpack(), BFP8.round(values))


def test_a_format_that_travels_is_the_one_that_is_there():
    """32 ranks get their precision in a message, and ask which format it has."""
    for dtype in (BF16, BFP4, BFP8, FLOAT32):
        assert pickle.loads(pickle.dumps(dtype)) is dtype
