"""Calibration: what the fit gives is what the profiles have, and it finds what it should."""

import csv
from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi import calibrate, validate
from galaxy_mpi.studies import fitting
from galaxy_mpi.studies.datum import Datum
from galaxy_mpi.studies.published_times import published_times
from galaxy_mpi.timing.published import MODELS


def test_all_published_times_are_modelled():
    """31 of the Galaxy (one, of 0.4 us, is no op of the model), 70 more, and 86 of many models."""
    data = published_times()
    assert len(data) == 31 + 70 + 86
    assert len({datum.name for datum in data}) == len(data)
    assert {datum.groups["machine"] for datum in data} == {
        "wormhole_galaxy_6u",
        "n150",
        "n300",
        "t3000",
        "wormhole_galaxy_4u",
    }


HELD_OUT = Path(__file__).parents[2] / "benchmarks" / "held_out_times.csv"

IN_ORDER = (
    ("llama3-70b",),
    ("llama3-8b", "mistral-7b"),
    ("llama3.2-1b",),
    ("llama3.2-3b",),
    ("phi-3.5-mini",),
    ("qwen2.5-32b",),
    ("qwen2.5-72b",),
    ("qwen2.5-7b",),
    ("qwen3-32b",),
    ("qwen3-8b",),
)
"""Models of equal layers stay together."""


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_times_are_held_out_by_a_rule_that_does_not_know_their_errors():
    """Every second model of the generic system, odd powers of two on the Galaxy, the 4U's tail."""
    fitted = {name for number in range(0, 10, 2) for name in IN_ORDER[number]}
    for path, is_fitted in ((MODELS, True), (HELD_OUT, False)):
        for row in rows_of(path):
            assert len(row["source"].rpartition("@")[2]) == 40, "a commit"
            if row["system"] == "tt_transformers":
                assert (row["model"] in fitted) is is_fitted, row
            elif row["machine"] == "wormhole_galaxy_4u":
                # Ops behind the layers: final_norm, lm_head_matmul, ..., sampling.
                behind = ("step", "final", "lm_head", "top_k", "sampling", "all_gather_values",
                          "all_gather_indices", "all_reduce_lm_head")  # fmt: skip
                is_behind = row["what"].removeprefix("op ").startswith(behind)
                assert is_behind is not is_fitted, row
            elif row["model"] == "llama3-70b":
                exponent = int(row["tokens"]).bit_length() - 1
                assert int(row["tokens"]) == 2**exponent
                assert (exponent % 2 == 0) is is_fitted, row


def test_no_held_out_time_is_in_the_package():
    keys = ("published", "machine", "system", "precision", "what", "tokens", "users",
            "cached_percent")  # fmt: skip
    held_out, fitted = (
        {tuple(row[key] for key in keys) for row in rows_of(path)} for path in (HELD_OUT, MODELS)
    )
    assert len(held_out) == 81
    assert not held_out & fitted


def test_the_profiles_are_what_the_fit_gives(capsys):
    """To the last digit that is written; three quarters of a minute."""
    assert calibrate.main(["--check"]) == 0
    assert "what determines it" in capsys.readouterr().out


def test_a_profile_that_was_changed_by_hand_is_found(tmp_path, capsys):
    path = tmp_path / "n150.yaml"
    there = calibrate.profile_path("n150").read_text()
    path.write_text(there)
    calibrate.compare(path, there)
    with pytest.raises(Exception, match="host_step_s is .*, the fit gives 1e"):
        calibrate.compare(path, _with_host(there))


def _with_host(text):
    lines = text.splitlines()
    at = lines.index("  host_step_s:")
    lines[at + 1] = "    value: 1e-3"
    return "\n".join(lines)


def test_a_fit_finds_constants_that_times_were_made_with(monkeypatch):
    """Times made with two constants of other values: found from the priors, the rest stays."""
    monkeypatch.setattr(fitting, "PARAMETERS", fitting.PARAMETERS[:4])
    priors = np.array([p.prior for p in fitting.PARAMETERS])
    truth = priors * [1, 1.3, 1, 1.2]

    def datum(power):
        def model_s(machines):
            m = machines["wormhole_galaxy_6u"]
            return m.launch_s**power / m.vector_elements_per_core_s

        seconds = model_s(fitting.machines_of(truth))
        groups = dict.fromkeys(("machine", "length", "model", "system", "kind"), "made up")
        return Datum(f"power {power}", seconds, 1e-3, model_s, groups, "here")

    found = fitting.fit([datum(1), datum(2), datum(3)])
    np.testing.assert_allclose(found.values, truth, rtol=1e-3)


def test_validate_shows_three_errors_side_by_side(capsys):
    assert validate.main([]) == 0
    text = capsys.readouterr().out
    for what in ("in sample", "left out", "roofline", "machine: n300", "mean of the groups"):
        assert what in text
