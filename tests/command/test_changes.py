"""Changes from outside over real ranks: the exit code, and errors that name both chips."""

import json

import pytest

from tests.command.decode_command import ROOT, faulty, nobody_is_left, play, refused, run

SHORT = ("--mesh", "2x1", "--layers", "2", "--batch", "2", "--max-new-tokens", "3", "--quiet")

APART = '''
from dataclasses import replace

import numpy as np

from galaxy_mpi.systems import GALAXY
from galaxy_mpi.systems.ops.add_norm import FusedAddNorm


class Apart(FusedAddNorm):
    """Of another value on rank 1, in the second layer."""

    value = 1e-3

    def bind(self, chip, x, residual, gain):
        h, stream = super().bind(chip, x, residual, gain)
        if chip.rank == 1 and gain.layer == 1:
            chip.call(np.add, stream, np.float32(self.value), stream)
        return h, stream


class Broken(Apart):
    value = np.nan


APART = replace(GALAXY, decode=replace(GALAXY.decode, add_norm=Apart))
BROKEN = replace(GALAXY, decode=replace(GALAXY.decode, add_norm=Broken))
'''


def test_golden_ends_two_ranks_with_one(tmp_path):
    golden = tmp_path / "golden.json"
    assert run(2, *SHORT, "--golden", str(golden), "--update-golden").returncode == 0
    assert run(2, *SHORT, "--golden", str(golden)).returncode == 0
    kept = json.loads(golden.read_text())
    kept["tokens"][1][0] += 1
    golden.write_text(json.dumps(kept))
    ended = run(2, *SHORT, "--golden", str(golden))
    assert ended.returncode == 1
    assert "1 of 2 users differ" in ended.stdout
    assert nobody_is_left()


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("APART", "residual must be the same on all rows, but chips (0, 0) and (1, 0) differ"),
        ("BROKEN", "op rms_norm_attention of layer 1, chip (1, 0): "),
    ],
)
def test_check_names_the_chips_over_two_ranks(tmp_path, system, said):
    path = tmp_path / "apart.py"
    path.write_text(APART)
    ended = run(2, *SHORT, "--system", f"{path}:{system}", "--check")
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert said in lines[0]
    assert "Traceback" not in ended.stderr
    assert nobody_is_left()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--capture-ops", "nothing"), "no op 'nothing' to capture; choose attention"),
        (("--capture-layers", "9"), "--capture-layers: layers are 0 to 1, got '9'"),
        (("--capture-steps", "5-2"), "--capture-steps counts from 1, and a range from its smaller"),
    ],
)
def test_what_cannot_be_captured_is_one_line_of_all_ranks(tmp_path, options, said):
    refused(run(2, *SHORT, "--capture", str(tmp_path / "values"), *options), said)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("flaot32", "--against flaot32: no such file; name one, or performance"),
        ("none.py:SYSTEM", "no file none.py"),
    ],
)
def test_what_there_is_not_to_compare_with_is_said_before_the_run(other, said):
    refused(run(2, *SHORT, "--against", other), said)


def test_values_of_two_ranks_are_joined(tmp_path):
    system = f"{ROOT}/docs/examples/bfp4_wire.py:SYSTEM"
    report = tmp_path / "run.json"
    options = ("--against", "galaxy", "--json", str(report))
    ended = run(2, *SHORT, "--system", system, *options)
    assert ended.returncode == 0, ended.stderr
    first = json.loads(report.read_text())["against"]["first"]
    assert (first["op"], first["layer"], first["run"]) == ("wo", 0, "decode-0001")


def test_the_hosts_trace_says_who_waits_for_whom(tmp_path):
    path = tmp_path / "host.json"
    options = ("--mesh", "2x2", "--chips-per-rank", "2", "--trace-host", str(path))
    ended = run(2, *SHORT, *options, "--trace-steps", "2")
    assert ended.returncode == 0, ended.stderr
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    waits = [e for e in events if e["ph"] == "X" and tracks[e["pid"], e["tid"]] == "waiting"]
    # Both chips of a process cross together; columns go over processes, rows do not.
    crossed = [e for e in waits if e["args"].get("for") != "prefetch"]
    assert {e["pid"] for e in crossed} == {0, 1, 2, 3}
    names = {rank: [e["name"] for e in crossed if e["pid"] == rank] for rank in range(4)}
    assert names[0] == names[3] == [*["wo", "w2"] * 2, "sample", "sample"]
    work = [e for e in events if e["ph"] == "X" and tracks[e["pid"], e["tid"]] == "compute"]
    assert {e["name"] for e in work if e["pid"] == 3} >= {"wo", "w2", "gate_up", "attention"}
    starts, ends = (
        {e["id"]: e for e in events if e["ph"] == phase and e["cat"] == "wait"} for phase in "sf"
    )
    assert starts.keys() == ends.keys()
    assert len(starts) >= len(names[0])  # of two chips that meet one waits, but for a tie
    for number, start in starts.items():
        assert abs(start["pid"] - ends[number]["pid"]) == 2  # the chip below or above
        assert start["ts"] < ends[number]["ts"]


def test_an_interrupted_run_writes_what_there_is(tmp_path):
    path = tmp_path / "run.json"
    ended = play(faulty(2, "int", 0, *SHORT, "--json", str(path)))
    assert ended.returncode == 130, ended.stderr
    assert ended.stdout.startswith("interrupted: ")
    found = json.loads(path.read_text())
    assert found["interrupted"]
    assert found["device"]["steps"] == 1
    assert [len(tokens) for tokens in found["tokens"]] == [2, 2]
    assert nobody_is_left()
