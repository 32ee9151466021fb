"""Studies of the device model and of runs: what-ifs, comparisons, fits, searches."""
