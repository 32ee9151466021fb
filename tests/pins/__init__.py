"""What the commands say today, pinned for refactoring: see tests/golden/README.md.

`cases` has the tables of cases, `commands` how one is run, `golden` the files and the comparison.
"""
