"""Traffic on the device clock: requests come, wait, are prefilled, decode, and go.

Scheduler, cache blocks and the loop around them are those of a run (`galaxy_mpi.engine`); times of
passes and steps are those of estimates (`galaxy_mpi.timing`). What is here is who comes when, the
clock, and the figures::

    lengths -> arrivals -> service (the clock) -> served requests -> figures -> report
"""
