"""Files and arguments that were damaged on purpose: ``python -m tests.fuzz FORMAT``.

Whatever is in them, what is raised is one of the project's own `UserError`, within its time. Inputs
that once ended otherwise are kept in ``corpus`` and played by ``tests/unit/test_fuzz.py``.
"""
