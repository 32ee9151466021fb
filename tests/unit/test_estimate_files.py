"""What an estimate writes beside its figures: traces, op reports, pictures."""

import csv
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from galaxy_mpi import estimate
from galaxy_mpi.timing import Machine

GALAXY = Machine.load("wormhole_galaxy_6u")


def test_a_trace_has_a_process_a_chip_and_no_track_does_two_things_at_once(tmp_path, capsys):
    path = tmp_path / "trace.json"
    arguments = ["--layers", "3", "--new-tokens", "1", "--trace", str(path), "--json", "-"]
    assert estimate.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)["device"]
    content = json.loads(path.read_text())
    assert content["otherData"]["schema_version"] == 3
    events = content["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {f"chip ({r}, {c})" for r in range(8) for c in range(4)}
    tracks = {}
    for event in events:
        if event["ph"] == "X" and event["tid"]:  # the first track has spans within each other
            span = event["ts"], event["ts"] + event["dur"]
            tracks.setdefault((event["pid"], event["tid"]), []).append(span)
    assert len(tracks) == 32 * 4
    end_us = max(spans[-1][1] for spans in map(sorted, tracks.values()))
    assert end_us == pytest.approx(figures["run_s"] * 1e6)
    for spans in tracks.values():
        spans.sort()
        for (_, stop), (start, _) in pairwise(spans):
            assert start >= stop - 1e-6
    sent = sorted(e["id"] for e in events if e["ph"] == "s" and e["cat"] == "message")
    assert sent == sorted(e["id"] for e in events if e["ph"] == "f" and e["cat"] == "message")
    # A message to each chip's next one in every collective. Decode: 9 a layer, and a norm and 3
    # at the end. Prefill: norms, 2 all-reduces of two halves, that behind wo at once, 2
    # reduce-scatters and a gather; a norm, an all-reduce and 2 at the end.
    assert len(sent) == 32 * (3 * 9 + 4 + 3 * (2 + 5 + 3) + 5)
    fills = [e["args"]["bytes"] for e in events if e["ph"] == "C" and "buffer" in e["name"]]
    assert len(fills) == 32 * 3 * 5 * 2  # each of five weights comes and goes
    assert 0 == min(fills) < max(fills) <= GALAXY.circular_buffer_bytes
    loads = [e["args"]["bytes/s"] for e in events if e["ph"] == "C" and "link" in e["name"]]
    assert 0 == min(loads) < max(loads) < GALAXY.link_bytes_per_s


def test_tt_perf_report_reads_the_op_report(tmp_path, capsys):
    path = tmp_path / "ops.csv"
    arguments = ["--layers", "2", "--new-tokens", "1", "--profile-csv", str(path)]
    assert estimate.main([*arguments, "--json", "-"]) == 0
    device = json.loads(capsys.readouterr().out)["device"]
    out = tmp_path / "report.csv"
    tool = Path(sys.executable).with_name("tt-perf-report")
    command = [str(tool), str(path), "--csv", str(out), "--no-color", "--no-summary"]

    def told_by(*options):
        words = [*command, *options]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout

    def shown_s():
        rows = csv.DictReader(out.open())
        return 1e-6 * sum(
            float(r["Device Time"] or 0) + float(r["Op-to-Op Gap"] or 0) for r in rows
        )

    # The last signpost is what the tool shows: the step.
    assert "Detected signposts: prefill 1, decode 1" in told_by()
    gaps_s = device["by_op_s"]["sampling_gap"] + device["by_op_s"]["plus_one_gap"]
    assert shown_s() == pytest.approx(device["decode_step_s"] - gaps_s, rel=0.02)
    told = told_by("--ignore-signposts")
    assert "Merging device data" in told
    assert "32 devices" in told
    assert "Unclassified" not in told
    rows = list(csv.DictReader(out.open()))
    names = [row["OP Code"] for row in rows]
    assert "Matmul 32 x 2048 x 1280" in names
    assert "RMSAllGather" in names
    assert shown_s() == pytest.approx(device["run_s"] - gaps_s, rel=0.02)


@pytest.mark.parametrize(
    "extra", [[], ["--sweep", "links=1,2,4"], ["--sweep", "links=1,2", "--sweep", "users=1,8"]]
)
def test_pictures_are_what_their_names_say(tmp_path, capsys, extra):
    arguments = ["--layers", "1", "--new-tokens", "1", *extra]
    png, svg, again = (tmp_path / name for name in ("a.png", "a.svg", "b.svg"))
    for path in (png, svg, again):
        assert estimate.main([*arguments, "--plot", str(path)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert len(png.read_bytes()) > 10_000
    assert b"<svg" in svg.read_bytes()[:1000]
    assert svg.read_bytes() == again.read_bytes()
    capsys.readouterr()


def test_a_plot_of_a_sweep_shows_every_figure_as_it_is(monkeypatch, tmp_path, capsys):
    seen = []

    def note(title, key, values, panels, suffix):
        seen.extend([key, values, *panels])
        return b"a picture"

    monkeypatch.setattr("galaxy_mpi.studies.sweep.panels_png", note)
    words = ["--new-tokens", "1", "--sweep", "links=1,2"]
    words += ["--sweep", "input-tokens=128,131071", "--plot", str(tmp_path / "a.png")]
    assert estimate.main([*words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    key, values, *panels = seen
    assert (key, values) == ("links", ["1", "2"])
    assert len(panels) == 5
    stalls = panels[4].lines["input-tokens 128"][0]
    assert stalls == [0.0, 0.0]  # not 1, as a share of itself
    steps, low, high = panels[0].lines["input-tokens 128"]
    known = [row["decode_step_s"] * 1e3 for row in rows if not row["not_estimated"]]
    assert steps == known
    assert all(a < b < c for a, b, c in zip(low, steps, high, strict=True))
    assert all(value != value for value in panels[0].lines["input-tokens 131071"][0])


def test_without_matplotlib_the_line_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["--layers", "1", "--new-tokens", "1", "--plot", str(tmp_path / "a.png")]
    assert estimate.main(arguments) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
