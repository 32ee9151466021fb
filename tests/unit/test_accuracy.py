"""Figures of accuracy by hand: agreement, published figures, where block floats lose."""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi import accuracy
from galaxy_mpi.engine.agreement import compare
from galaxy_mpi.engine.outliers import outliers
from galaxy_mpi.engine.teacher import Answers
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.published_accuracy import PUBLISHED, published


def answers(logits, first=0):
    logits = np.array(logits, np.float32)
    return Answers(logits, np.stack([logits, 2 * logits]), first)


def test_top_five_asks_whether_our_best_is_among_the_references_five():
    right = answers([[9, 8, 7, 6, 5, 4, 0], [0, 9, 8, 7, 6, 5, 4], [0, 0, 0, 1, 2, 3, 9]])
    ours = answers(
        [
            [9, 0, 0, 0, 0, 0, 0],  # the first choice
            [0, 0, 0, 0, 0, 9, 0],  # the fifth choice
            [9, 0, 0, 0, 0, 0, 8],  # none of them, though the reference's is our second
        ]
    )
    found = compare("some", ours, right, [0, 1, 2])
    assert (found.positions, found.top1, found.top5) == (
        3,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )


def test_positions_behind_a_prefilled_beginning_meet_their_own_of_the_reference():
    rng = np.random.default_rng(0)
    right = answers(rng.standard_normal((6, 8)))
    ours = Answers(right.logits_TV[2:5], right.streams_LTD[:, 2:5], 2)
    found = compare("some", ours, right, [1, 2, 3, 4, 5, 6])
    assert (found.positions, found.top1) == (3, 1)
    assert found.logits_pcc == pytest.approx(1)
    assert found.stream_pcc == pytest.approx([1, 1])
    # Of tokens 4, 5 and 6, which positions 2, 3 and 4 say.
    logits = right.logits_TV[2:5].astype(float)
    surprise = np.log(np.exp(logits).sum(axis=1)) - logits[[0, 1, 2], [4, 5, 6]]
    assert found.perplexity == pytest.approx(np.exp(surprise.mean()))


def test_published_figures_are_of_the_same_model_on_the_same_machine():
    llama, mistral = PRESETS["llama3-8b"], PRESETS["mistral-7b"]
    assert published(llama, "1x1", "tt_transformers", "performance") == (90, 97)
    assert published(llama, "1x1", "tt_transformers", "accuracy") == (96, 100)
    assert published(mistral, "1x1", "tt_transformers", "performance") == (95, 99)
    assert published(llama, "1x1", "galaxy", "accuracy") is None
    assert published(llama, "2x2", "tt_transformers", "accuracy") is None
    assert published(llama, "1x1", "tt_transformers", "formats") is None
    assert published(replace(llama, n_layers=2), "1x1", "tt_transformers", "accuracy") is None
    assert len({(row.sizes, row.mesh) for row in PUBLISHED}) == len(PUBLISHED)


def test_an_outlier_is_named_by_layer_and_channel_with_what_its_block_loses():
    """256 leaves its block steps of 4, in which ones are zeros; elsewhere they are exact."""
    plain, other = np.ones((3, 32), np.float32), np.ones((3, 32), np.float32)
    other[:, 21] = -256
    worst, best = outliers({"stream": [plain, other]})
    assert (worst.tensor, worst.layer, worst.channel) == ("stream", 1, 21)
    assert (worst.ratio, worst.error, worst.share) == (256, 1, 1)
    assert (best.layer, best.ratio, best.error) == (0, 1, 0)
    assert worst.to_text().split() == ["stream", "1", "21", "256", "100.0%", "100.0%"]


def test_help_needs_nothing_else_and_what_is_missing_is_a_line(capsys):
    assert accuracy.main(["--help", "--chips-per-rank", "32"]) == 0
    assert "--optimizations FILE" in capsys.readouterr().out
    assert accuracy.main(["--mesh", "1x1"]) == 2
    assert capsys.readouterr().err == ("galaxy_mpi: --text is missing; give a file of UTF-8 text\n")
