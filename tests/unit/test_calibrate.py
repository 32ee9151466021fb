"""Calibration: what the fit gives is what the profiles have, and it finds what it should."""

import numpy as np
import pytest

from galaxy_mpi import calibrate, validate
from galaxy_mpi.studies import fitting
from galaxy_mpi.studies.published_times import Datum, published_times


def test_all_published_times_are_modelled():
    """31 of the Galaxy (one, of 0.4 us, is no op of the model) and 70 more."""
    data = published_times()
    assert len(data) == 31 + 70
    assert len({datum.name for datum in data}) == len(data)
    assert {datum.groups["machine"] for datum in data} == {
        "wormhole_galaxy_6u",
        "n150",
        "n300",
        "t3000",
    }


def test_the_profiles_are_what_the_fit_gives(capsys):
    """To the last digit that is written; half a minute."""
    assert calibrate.main(["--check"]) == 0
    assert "what determines it" in capsys.readouterr().out


def test_a_profile_that_was_changed_by_hand_is_found(tmp_path, capsys):
    path = tmp_path / "n150.yaml"
    there = calibrate.profile_path("n150").read_text()
    path.write_text(there)
    calibrate._compare(path, there)
    with pytest.raises(Exception, match="host_step_s is .*, the fit gives 1e"):
        calibrate._compare(path, _with_host(there))


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
