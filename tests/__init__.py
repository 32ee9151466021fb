"""Tests of the package, also run as ``python -m tests.pins`` and ``python -m tests.schemas``."""

import os

# Some tests compare bits with files. Products that are written for another kind of processor have
# other last bits; these instructions are those of all x86 processors with AVX2. Set here, because
# it must be before numpy is imported, and this file is the first of all tests to be imported.
os.environ["OPENBLAS_CORETYPE"] = "Haswell"
