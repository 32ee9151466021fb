"""Reports say what was run, and which chips the others wait for."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi import accuracy, compare, decode, estimate, validate
from galaxy_mpi.dtypes import codec_name
from galaxy_mpi.engine.report_text import report_text
from galaxy_mpi.mesh import Mesh
from tests.chips.changes import RUN, play
from tests.prompts import prompt_of

TABLES = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")


def documented(section):
    """Return the keys in the first table of a section."""
    table = TABLES.partition(section)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines()]
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def test_json_says_what_was_run(tmp_path, capsys):
    path = tmp_path / "run.json"
    options = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "1", "--batch", "2"]
    options += ["--max-new-tokens", "2", "--collectives", "line", "--set", "machine.links=2"]
    options += ["--temperature", "0.5", "--quiet", "--json", str(path)]
    assert decode.main(options) == 0
    printed = capsys.readouterr().out.replace(" \\\n", " ")
    lines = printed.splitlines()
    assert shlex.split(lines[0]) == ["command", "galaxy-mpi", "decode", *options]
    assert f"codec {codec_name()}" in lines[1]
    assert lines[2].split() == ["collectives", "decode", "line;", "prefill", "line"]
    found = json.loads(path.read_text())
    assert found["schema_version"] == 2
    assert found.keys() == documented("## decode --json") - {"against"}
    ran = found["run"]
    assert ran.keys() == documented("\n`run`:")
    assert ran["argv"] == ["galaxy_mpi.decode", *options]
    assert (ran["config"]["n_layers"], ran["config"]["page_size"]) == (1, 64)
    assert ran["sampling"]["temperature"] == 0.5
    assert set(ran["collectives"]["decode"].values()) == {"line"}
    assert ran["machine"]["links"] == 2
    assert ran["versions"]["numpy"] == np.__version__
    assert all(len(known) >= 16 for known in ran["checksums"].values())


def test_a_run_without_a_decode_step_has_no_figures_of_one(capsys):
    options = ["--mesh", "1x1", "--layers", "1", "--batch", "1", "--max-new-tokens", "1"]
    assert decode.main([*options, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:29].strip(): line[29:] for line in lines}
    assert rows["mesh"] == "1x1, 1 chip"
    for clock in ("device", "host"):
        assert rows[f"{clock}: decode step"] == "none (the first new token comes from prefill)"
        assert f"{clock}: time to first token" in rows
        assert f"{clock}: tokens/s" not in rows


def test_collectives_are_named_as_they_ran():
    usual = play(RUN).to_dict()["run"]
    assert set(usual["collectives"]["decode"].values()) == {"direct"}
    assert usual["collectives"]["prefill"]["FF1"] == "ring"
    assert usual["collectives"]["prefill"]["WO"] == "ring, then direct"
    assert usual["machine"] is None  # float32 is not of the device
    # These chips share memory: sums of more than 4,096 values are made of gathered terms too.
    over_a_ring = play(RUN, collectives="ring").to_dict()["run"]["collectives"]
    assert over_a_ring["decode"]["CREATE_HEADS"] == "ring of terms"
    assert over_a_ring["prefill"]["QKV"] == "ring of terms, then ring"
    assert over_a_ring["decode"]["CONCAT_HEADS"] == "ring"


@pytest.mark.parametrize("mesh", [Mesh(2, 2), Mesh(3, 2)])
def test_a_slow_chip_is_pointed_at(mesh):
    # Equal prompts: attention takes longer in a column whose users are at later positions.
    prompts = (prompt_of(20),) * 4
    run = {"mesh": mesh, "precision": "performance", "batch": 6, "prompt_tokens": prompts}
    even = play(RUN, **run)
    slow = play(RUN, **run, slow_chips=("1,0,2",))
    first, *_ = slow.to_dict()["device"]["stragglers"]
    assert first["chip"] == [1, 0]
    steps = [report.to_dict()["device"]["decode_step_s"] for report in (even, slow)]
    # Others wait for all that the step takes longer, but for what the slow chip does at its end.
    assert 0.5 * (steps[1] - steps[0]) < first["waited_s"] <= steps[1] - steps[0]
    assert re.search(
        r"device: stragglers +others wait in collectives,\s+up to [\d.]+ us per step \([\d.]+%\),"
        r"\s+for \(1, 0\)\n",
        report_text(slow, show_all=False),
    )
    assert "stragglers" not in report_text(even, show_all=False)


def test_a_slow_wire_points_at_its_group():
    run = {"mesh": Mesh(2, 2), "precision": "performance"}
    slow = play(RUN, **run, slow_links=("1,0,row,30",))
    chips = [one["chip"] for one in slow.to_dict()["device"]["stragglers"]]
    assert sorted(chips) == [[1, 0], [1, 1]]
    assert re.search(
        r"for row 1 with the slow link of \(1, 0\)\n", report_text(slow, show_all=False)
    )


def test_an_estimate_says_what_was_asked(capsys):
    options = ["--model", "demo", "--set", "machine.links=1", "--json", "-"]
    assert estimate.main(options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == documented("## estimate --json")
    assert found["run"]["argv"] == ["galaxy_mpi.estimate", *options]
    assert found["run"]["machine"]["links"] == 1
    assert found["constants"] == ["machine.links=1"]


MESH = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "1"]
TEXT = str(Path(__file__).parents[2] / "benchmarks" / "prose.txt")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (accuracy, [*MESH, "--text", TEXT, "--tokens", "12", "--prefill", "8"]),
        (compare, [*MESH, "--users", "2", "--turns", "1"]),
        (compare, ["--timing-only", "--model", "demo"]),
        (validate, []),
    ],
)
def test_every_command_says_what_it_ran(tmp_path, command, options):
    path, name = tmp_path / "told.json", command.__name__.rpartition(".")[2]
    options = [*options, "--json", str(path)]
    assert command.main(options) == 0
    found = json.loads(path.read_text())
    assert found.keys() == documented(f"## {name} --json")
    ran = found["run"]
    assert ran["argv"] == [f"galaxy_mpi.{name}", *options]
    assert ran["versions"]["numpy"] == np.__version__
    if command is validate:
        assert ran["machines"]["n150"]["mesh"] == "1x1"
        return
    assert ran["config"]["model"] == "demo"
    if "--timing-only" not in options:
        assert ran.keys() == documented("\n`run`:")
        assert ran["config"]["n_layers"] == 1
        assert all(len(known) >= 16 for known in ran["checksums"].values())
    if command is accuracy:
        assert len(set(ran["formats"])) == len(found["precisions"]) == 3
    else:
        assert ran["machine"]["links"] == 4


def test_a_mesh_of_two_machines_has_no_device_time(tmp_path, capsys):
    said = "the 16x4 mesh has 64 chips, machine wormhole_galaxy_6u has 32"
    assert estimate.main(["--mesh", "16x4"]) == 2
    assert said in capsys.readouterr().err
    values = [
        "--mesh",
        "16x4",
        "--chips-per-rank",
        "64",
        "--layers",
        "1",
        "--batch",
        "1",
        "--quiet",
    ]
    values += ["--max-new-tokens", "1", "--cache-blocks", "8"]
    assert decode.main(values) == 2
    assert said in capsys.readouterr().err
    # One who says that all its links are alike may.
    path = tmp_path / "alike.yaml"
    path.write_text("name: alike\nextends: wormhole_galaxy_6u\nmesh: 16x4\nconstants: {}\n")
    assert estimate.main(["--mesh", "16x4", "--machine", str(path), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["mesh"] == "16x4"


def test_an_estimate_points_at_the_slow_chip_as_a_run_does(capsys):
    slow = ["--slow-chip", "1,0,2"]
    words = ["--model", "demo", "--mesh", "2x2", "--layers", "2", "--users", "4", *slow]
    words += ["--input-tokens", "40", "--new-tokens", "1"]
    assert estimate.main([*words, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)["device"]["stragglers"]
    prompts = (tuple(range(1, 41)),) * 4
    run = {"mesh": Mesh(2, 2), "precision": "performance", "max_new_tokens": 2}
    ran = play(RUN, **run, prompt_tokens=prompts, slow_chips=("1,0,2",))
    found = ran.to_dict()["device"]["stragglers"]
    assert [one["chip"] for one in told] == [one["chip"] for one in found]
    assert told[0]["waited_s"] == pytest.approx(found[0]["waited_s"], rel=1e-9)
    assert estimate.main(words) == 0
    assert re.search(r"\(1, 0\)", capsys.readouterr().out)
