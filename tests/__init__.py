"""Tests of the package, also run as ``python -m tests.pins`` and ``python -m tests.schemas``."""

import os

# Some tests compare bits with files, and products and exponentials that are written for another kind
# of processor have other last bits. So all use those of x86 processors with AVX2, also where there is
# AVX-512. Set here, because it must be before numpy is imported, and this file is imported first.
os.environ["OPENBLAS_CORETYPE"] = "Haswell"
os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL AVX512_SPR"
