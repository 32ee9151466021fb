"""The examples of docs/python.md run as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi import Generator, create_model

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", [n for n, code in enumerate(BLOCKS) if "MPI" not in code])
def test_an_example_runs(number, capsys):
    exec(compile(BLOCKS[number], f"example {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_window_sees_eight_positions():
    (code,) = (code for code in BLOCKS if "WindowAttention" in code)
    names = {}
    exec(compile(code, "window", "exec"), names)
    model = create_model(
        mesh="2x2", optimizations="float32", attention_class=names["WindowAttention"], n_layers=1
    )
    with Generator(model) as generator:
        # One layer: what is further than eight back is out of sight, in both modes.
        rng = np.random.default_rng(3)
        tail = rng.integers(5, 500, 9).tolist()
        one, other = (
            generator.prefill_forward([[*rng.integers(5, 500, 20).tolist(), *tail]])
            for _ in range(2)
        )
        step = generator.prepare_decode_inputs([7], [29])
        assert np.abs(one - other).max() < 1e-4
        for head in (one, other):
            assert np.isfinite(head).all()
        first = generator.decode_forward(*step)[0]
        generator.prefill_forward([[*rng.integers(5, 500, 20).tolist(), *tail]])
        assert np.abs(generator.decode_forward(*step)[0] - first).max() < 1e-4
