"""What ranks leave behind, and where they part: records written here, answers written by hand."""

from types import SimpleNamespace

import pytest

from galaxy_mpi import flight
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.flight_recorder import N_EVENTS, read_flights, recording


def crossing(text):
    return SimpleNamespace(label=SimpleNamespace(text=text))


def leave(folder, rank, texts):
    recorder = recording(folder, rank).__enter__()  # and never leave it, as who is killed
    recorder.step(0)
    for text in texts:
        recorder.crossing(crossing(text))


def test_a_run_that_ends_well_leaves_nothing(tmp_path):
    with recording(tmp_path / "a" / "b", 3) as recorder:
        recorder.crossing(crossing("QKV"))
        assert [f.rank for f in read_flights(tmp_path / "a" / "b")] == [3]
    with pytest.raises(ConfigError, match="no records of ranks"):
        read_flights(tmp_path / "a" / "b")


def test_only_the_last_events_are_kept_in_order(tmp_path):
    leave(tmp_path, 0, [f"c{n}" for n in range(1, N_EVENTS + 11)])
    (found,) = read_flights(tmp_path)
    assert [event.text for event in found.events] == [f"c{n}" for n in range(11, N_EVENTS + 11)]
    assert found.events[-1].crossing == N_EVENTS + 10


def test_the_first_crossing_that_differs_is_told(tmp_path):
    leave(tmp_path, 0, ["QKV", "WO", "FF1", "FF2"])
    leave(tmp_path, 1, ["QKV", "WO", "FF1"])
    leave(tmp_path, 2, ["QKV", "FF1", "WO"])
    flights = read_flights(tmp_path)
    assert flight.divergence(flights) == 2
    text = flight.to_text(flights, 3)
    assert "ranks diverge at exchange 2: their labels differ" in text
    assert "      2  WO (ranks 0, 1) | FF1 (rank 2)" in text


def test_a_rank_that_is_behind_is_told(tmp_path, capsys):
    leave(tmp_path, 0, ["QKV", "WO"])
    leave(tmp_path, 1, ["QKV"])
    assert flight.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "rank 1 reached only exchange 1, others 2" in said
    assert "      2  WO (rank 0) | not reached (rank 1)" in said


def test_a_record_that_was_cut_short_is_refused(tmp_path):
    leave(tmp_path, 0, ["QKV"])
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="truncated"):
        read_flights(tmp_path)
    assert flight.main([str(tmp_path)]) == 2
