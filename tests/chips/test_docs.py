"""What stands in docs/ runs, and prints what stands there."""

from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi import Generator, create_model, decode
from tests.chips.blocks import blocks_of, check, play

README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"
PAGES = [*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md"), *DOCS.glob("examples/*.md")]
WITH_BLOCKS = sorted(path for path in PAGES if any(block.is_run for block in blocks_of(path)))


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda path: path.stem)
def test_blocks_run_and_print_what_they_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(DOCS)
    ran = list(play(blocks_of(page), tmp_path, lambda: tuple(capsys.readouterr())))
    assert ran


def test_the_run_of_the_readme_prints_what_it_says(capsys):
    """In one process, which gives the same bytes; the text of a user is cut short there."""
    commands = (found for block in blocks_of(README) for found in block.commands)
    (shown,) = (lines for command, lines in commands if command == "galaxy-mpi decode")
    assert decode.main(["--chips-per-rank", "32"]) == 0
    printed = capsys.readouterr().out.splitlines()
    (text,) = (line for line in shown if line.startswith("[user 0]"))
    assert any(line.startswith(text.removesuffix("...")) for line in printed)
    check([line for line in shown if line != text], printed, "galaxy-mpi decode")


def test_the_window_sees_eight_positions():
    (code,) = (b.text for b in blocks_of(DOCS / "python.md") if "WindowAttention" in b.text)
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
