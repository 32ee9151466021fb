"""Traffic on the device clock: requests arrive, wait, are prefilled, decode and leave.

The scheduler, its cache blocks and its loop are those of a run (`galaxy_mpi.engine`). The times of
passes and steps are those of an estimate (`galaxy_mpi.timing`). This package adds arrivals, the
clock and the figures::

    load: lengths, arrivals, trace_file     which requests arrive when
    service: prompts, served                serves them on the device clock
    traffic: figures, report, sweep         a configuration, its figures and their bands
    values                                  the same with real tokens, on ranks
"""
