"""The ops of all systems, one file per op: what it computes, what it sends, its device time.

Shapes are per chip; `galaxy_mpi.arrays` explains the letters. A file has the generic op, then the
Galaxy's fused op, then that of a single row of chips, as far as they differ.
"""
