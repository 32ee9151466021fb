"""Tests of the package, also run as ``python -m tests.pins`` and ``python -m tests.schemas``."""

import os

# Some tests compare bits with files. Products and exponentials that are written for another kind of
# processor, and products of several threads, have other last bits, so all tests use those of x86
# processors with AVX2, also where there is AVX-512, in one thread. Set here, because it must be
# before numpy is imported, and this file is the first of the tests to be imported.
os.environ["OPENBLAS_CORETYPE"] = "Haswell"
os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL AVX512_SPR"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
