"""The compiled codecs alone: what they refuse, large values, threads, and who chooses."""

import threading

import numpy as np
import pytest

from galaxy_mpi.dtypes.choice import codecs_named
from galaxy_mpi.errors import ConfigError
from tests.unit.test_block_float_codecs import LEVELS, NUMPY, each_level, needs_compiled, same

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, for infinities


@needs_compiled
def test_compiled_codecs_refuse_what_is_not_theirs():
    codec = LEVELS[-1].blocks(7, 32, 32)
    values_, packed = np.zeros((32, 32), np.float32), np.zeros(1088, np.uint8)
    for arguments in ((values_.astype(np.float64), packed), (values_.astype(">f4"), packed)):
        with pytest.raises(ValueError):
            codec.pack(*arguments)
    packed.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        codec.pack(values_, packed)
    with pytest.raises(TypeError):
        codec.pack(values_)
    with pytest.raises(TypeError):
        codec.pack(None, packed)
    with pytest.raises(ValueError):
        codec.add_terms(np.zeros((0, 1088), np.uint8), values_)
    with pytest.raises(ValueError):
        LEVELS[-1].blocks(5, 32, 32)


@needs_compiled
@each_level
@pytest.mark.parametrize("offset", [0, 4, 16])
def test_large_values_are_written_past_the_caches(codecs, offset):
    """Aligned to 16 bytes or not: the widest level has another store for these."""
    shape = 1030, 4112
    memory = np.zeros(4 * (shape[0] * shape[1] + 16) + 64, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    out = np.ndarray(shape, np.float32, memory, start)
    codec, numpy = codecs.blocks(7, *shape), NUMPY.blocks(7, *shape)
    packed = np.random.default_rng(0).integers(0, 256, codec.n_bytes, np.uint8)
    wanted = np.empty(shape, np.float32)
    numpy.unpack(packed, wanted)
    codec.unpack(packed, out)
    assert same(out, wanted)
    assert not memory[:start].any()
    assert not memory[start + out.nbytes :].any()


@needs_compiled
def test_threads_may_share_a_compiled_codec():
    codec = LEVELS[-1].blocks(7, 64, 512)
    inputs = [np.full((64, 512), 2.0**i, np.float32) for i in range(4)]
    wrong = []

    def work(mine):
        packed, out = np.empty(codec.n_bytes, np.uint8), np.empty_like(mine)
        for _ in range(50):
            codec.pack(mine, packed)
            codec.unpack(packed, out)
            if not (out == mine).all():
                wrong.append(mine[0, 0])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_environment_chooses():
    assert codecs_named("numpy").name == "numpy"
    assert codecs_named("").name == ("compiled" if LEVELS else "numpy")
    with pytest.raises(ConfigError, match=r"numpy or compiled, got 'fast'"):
        codecs_named("fast")
    if LEVELS:
        assert codecs_named("compiled").name == "compiled"
    else:
        with pytest.raises(ConfigError, match="C compiler"):
            codecs_named("compiled")
