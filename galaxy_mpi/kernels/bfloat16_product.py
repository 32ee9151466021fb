"""Products of bfloat16 factors that are added in float32, by instructions that do just that.

Processors with AVX512-BF16 or AMX multiply bfloat16 at least twice as fast as float32, and add in
float32, so no bit of a factor is lost and the result is not rounded. numpy has no such product, and
those of torch round their result to bfloat16, but the kernel below them does not. Torch exports it
under its C++ name, which contains the types of its arguments: a version in which they differ does
not have this name. The kernel is tried out before it is used.

The additions are in another order than in a product of float32, and subnormal numbers count as
zero.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32, Array, Call
from galaxy_mpi.dtypes import Bfloat16Factors

__all__ = ["Bfloat16Product", "NoKernelError"]

_MULTIPLY = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"
"""``at::native::cpublas::brgemm(int64_t M, N, K, ld_a, ld_b, ld_c, bool add_C, const BFloat16* A,
const BFloat16* B, float* C, bool is_vnni)``, in ATen/native/CPUBlas.h."""

_RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
"""Releases the AMX tile registers, if the processor has them."""

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that forbid oneDNN some instructions, whatever the processor has."""


def _has_instructions(torch: Any) -> bool:
    """Return whether oneDNN uses bfloat16 instructions; without, the kernel aborts the process."""
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if is_supported is None or not torch.backends.mkldnn.is_available():
        return False
    return bool(is_supported()) and not any(name in os.environ for name in _LIMITS)


class NoKernelError(RuntimeError):
    """This computer's torch or processor has no such product."""


class Bfloat16Product:
    """See `galaxy_mpi.prefetch.pieces.Product`; the calling thread alone multiplies.

    Raises
    ------
    NoKernelError
        If torch, its kernel or the processor's instructions are not there.
    """

    name = "bfloat16"
    needs_term = False
    factors = Bfloat16Factors()

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise NoKernelError("torch is not installed") from error
        if not _has_instructions(torch):
            raise NoKernelError("the processor does not multiply bfloat16, or oneDNN must not")
        try:
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
            self._kernel, self._release = library[_MULTIPLY], library[_RELEASE]
        except (OSError, AttributeError) as error:
            raise NoKernelError("torch has no such kernel") from error
        self._kernel.restype = self._release.restype = None
        if not self._is_right():
            raise NoKernelError("torch's kernel gave a wrong product")

    def bind(self, x: Array, w: Array, out: F32, term: F32, *, adds: bool) -> list[Call]:
        """Multiply and add in one call."""
        if not out.size:
            return []
        (n_rows, depth), width = x.shape, w.shape[1]
        arguments: list[Any] = [
            *map(ctypes.c_int64, (n_rows, width, depth)),
            ctypes.c_int64(x.strides[0] // x.itemsize),
            ctypes.c_int64(w.strides[0] // w.itemsize),
            ctypes.c_int64(out.strides[0] // out.itemsize),
            ctypes.c_bool(adds),
            *(ctypes.c_void_p(array.ctypes.data) for array in (x, w, out)),
            ctypes.c_bool(True),
        ]
        kernel = self._kernel

        def multiply(*_: Array) -> None:
            kernel(*arguments)

        return [(multiply, (x, w, out))]  # the arguments keep the arrays alive

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Release registers at the end."""
        try:
            yield
        finally:
            self._release(ctypes.c_bool(True))

    def _is_right(self) -> bool:
        """Return whether small integers, whose sums are exact, are multiplied and added."""
        rows, depth, width = 3, 34, 21
        x = np.arange(rows * depth, dtype=np.float32).reshape(rows, depth) % 11 - 5
        w = np.arange(depth * width, dtype=np.float32).reshape(depth, width) % 13 - 6
        # All are longer than what is read and written of them, so that strides are tried out too.
        read = np.zeros((rows, depth + 2), np.uint16)[:, :depth]
        read[:] = self.factors.read(x)
        words = np.zeros((depth // 2, width + 3), np.uint32)[:, :width]
        words[:] = self.factors.words(w)
        out = np.full((rows, width + 1), 7, np.float32)
        for adds in (False, True):
            for call, given in self.bind(read, words, out[:, :width], out, adds=adds):
                call(*given)
        wanted = np.full_like(out, 7)
        wanted[:, :width] = 2 * (x @ w)
        self._release(ctypes.c_bool(True))
        return bool((out == wanted).all())
