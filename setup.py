"""The one part that is compiled, and only where there is a compiler; see pyproject.toml."""

import os
import sys
import sysconfig

from setuptools import Extension, setup

# Buffers are in the limited API from Python 3.11 on: one wheel for all of these, one for 3.10.
LIMITED = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "galaxy_mpi.dtypes._compiled",
            ["galaxy_mpi/dtypes/_compiled.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
            py_limited_api=LIMITED,
            # No fused multiply-add: it would be other bits where a product overflows.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            depends=["setup.py"],
            # Without a compiler the package installs all the same. Whoever builds wheels wants
            # to know: GALAXY_MPI_REQUIRE_COMPILED=1.
            optional=os.environ.get("GALAXY_MPI_REQUIRE_COMPILED", "") != "1",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
