"""The ops of all systems, one file an op: what it computes, what it sends, what it is charged.

Shapes are per chip; see `galaxy_mpi.arrays` for the letters. A file has the generic op, then the
fused one of the Galaxy, then that of a single row of chips, where they differ.
"""
