"""What a replayed decode step allocates: nothing, but where sizes depend on positions or values."""

import tracemalloc

import numpy as np
import pytest

from galaxy_mpi.config import RunConfig
from galaxy_mpi.mesh import Mesh
from tests.chips.playing import connect
from tests.prompts import prompt_of

DEPEND_ON_VALUES = {"CacheWriter.write", "AttentionStep.attend", "TopK.find_best"}

AN_ARRAY = 2048
"""Bytes: more than the objects that a call passes, less than the smallest activation."""


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("precision", ["float32", "performance"])
@pytest.mark.parametrize("collectives", ["direct", "ring"])
def test_calls_of_a_step_allocate_no_arrays(system, precision, collectives):
    run = RunConfig(
        system=system,
        precision=precision,
        collectives=collectives,
        mesh=Mesh(2, 2),
        n_layers=2,
        batch=8,
        prompt_tokens=tuple(prompt_of(20, seed) for seed in range(8)),
        prefetch=False,
    )
    found = set()
    with connect(run) as engine:
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
        tables = {column: scheduler.page_table(column) for column in engine.chips.columns}
        for _ in range(2):  # the second run shares arguments
            engine.decode_mode.run(scheduler.tokens, tables)
        calls = engine.decode_mode.ready().bound.calls
        tracemalloc.start()
        # Ufuncs copy strided operands to buffers, which is faster; here they are small.
        usual = np.setbufsize(16)
        try:
            for call, arguments in calls:
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                call(*arguments)
                _, peak = tracemalloc.get_traced_memory()
                if peak - before >= AN_ARRAY:
                    found.add(getattr(call, "__qualname__", repr(call)))
        finally:
            np.setbufsize(usual)
            tracemalloc.stop()
    assert found <= DEPEND_ON_VALUES
    assert "TopK.find_best" in found  # arrays are counted
