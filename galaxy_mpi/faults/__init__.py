"""A laboratory: real runs, one fault in each, and what must have become of them.

``python -m galaxy_mpi.faults`` runs it. Faults come from outside: `galaxy_mpi.faults.rank` starts
the decode command with traps around what it calls; the commands themselves know of no faults.
"""
