"""Traces of both clocks: the same names, waiting apart from working, arrows, chosen steps."""

import gzip
import json
from dataclasses import replace
from itertools import pairwise

import pytest

from galaxy_mpi.checkpoints.model_files import model_sizes
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.systems import GALAXY, PRECISIONS, PassShape
from tests.chips.changes import RUN, play

TRACKS = ("program", "compute", "waiting", "prefetch")


def traced(folder, **more):
    """Return the spans of the first four tracks by clock, chip and track, and all events."""
    paths = {clock: folder / f"{clock}.json.gz" for clock in ("device", "host")}
    run = replace(RUN, precision="performance", trace_path=paths["device"], **more)
    report = play(run, host_trace_path=paths["host"])
    report.write_files()
    spans, events = {}, {}
    for clock, path in paths.items():
        content = json.loads(gzip.decompress(path.read_bytes()))
        assert content["otherData"] == {"schema_version": 3, "clock": clock}
        events[clock] = content["traceEvents"]
        names = {
            (e["pid"], e["tid"]): e["args"]["name"]
            for e in events[clock]
            if e["name"] == "thread_name"
        }
        assert {name for name in names.values() if "links" not in name} == set(TRACKS)
        for event in events[clock]:
            if event["ph"] == "X":
                track = names[event["pid"], event["tid"]]
                spans.setdefault((clock, event["pid"], track), []).append(event)
    return spans, events, report


def ordered(events):
    """Return the names of spans, outer ones first."""
    return [e["name"] for e in sorted(events, key=lambda e: (e["ts"], -e["dur"]))]


def op_names():
    """Return what a pass and a step are to be made of, from the recorded programs."""
    model = replace(model_sizes("demo"), n_layers=2)
    programs = Programs(model, Mesh(2, 2), GALAXY, PRECISIONS["performance"], users=4)
    for title, program in (
        ("prefill 1", programs.prefill(PassShape.of_prompt(20))),
        ("decode 1", programs.decode()),
    ):
        yield title, [(use.layer, use.op.name) for use in program.uses]


def test_both_clocks_name_run_steps_layers_and_ops_alike(tmp_path):
    spans, _, _ = traced(tmp_path, trace_steps="p1,1")
    for title, ops in op_names():
        layers = {"layer 0", "layer 1", "head"}
        of_clock = {}
        for clock in ("device", "host"):
            program = spans[clock, 3, "program"]
            assert ordered(program)[0] == "run"
            (step,) = (e for e in program if e["name"] == title)
            inside = [
                e
                for e in program
                if e not in (step,)
                and step["ts"] - 1e-3 <= e["ts"]
                and e["ts"] + e["dur"] <= step["ts"] + step["dur"] + 1e-3
            ]
            found = {e["name"] for e in inside}
            assert layers < found
            of_clock[clock] = found - layers
            for outer, inner in pairwise(sorted(inside, key=lambda e: (e["ts"], -e["dur"]))):
                end, end_in = outer["ts"] + outer["dur"], inner["ts"] + inner["dur"]
                assert inner["ts"] >= end - 1e-3 or end_in <= end + 1e-3  # behind it, or within
        known = {name for _, name in ops}
        assert of_clock["device"] <= known
        assert of_clock["host"] <= known
        # The host's ops without calls, and those that the device does not charge, take no time.
        assert {"wo", "w2", "gate_up", "attention"} <= of_clock["device"] & of_clock["host"]


def test_ops_say_what_they_are_part_of_and_weights_have_names(tmp_path):
    spans, _, _ = traced(tmp_path, trace_steps="1")
    by_name = {}
    for event in spans["device", 0, "compute"]:
        by_name.setdefault(event["name"], []).append(event["args"])
    assert [a["layer"] for a in by_name["w2_matmul"]] == ["layer 0", "layer 1"]
    crossed = by_name["all_reduce_w2"][0]
    assert (crossed["op"], crossed["format"]) == ("w2", "bfloat8_b")
    assert crossed["link_bytes"] > 0
    assert "(4, 128)" in crossed["wire"]  # four users, half the dim
    assert {a["bound"] for args in by_name.values() for a in args if "bound" in a} >= {"latency"}
    reads = [(e["name"], e["args"]) for e in spans["device", 0, "prefetch"]]
    names = [f"layer {n} {w}" for n in (0, 1) for w in ("wqkv", "wo", "w1", "w3", "w2")]
    assert [name for name, _ in reads] == names
    assert reads[2][1]["format"] == "bfloat4_b"
    unpacked = {e["name"] for e in spans["host", 0, "prefetch"]}
    assert set(names) < unpacked


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
def test_waiting_is_apart_from_working_and_points_at_the_slow_chip(tmp_path, system):
    spans, events, report = traced(tmp_path, trace_steps="1", slow_chips=("1,0,3",), system=system)
    waits = {rank: spans.get(("device", rank, "waiting"), []) for rank in range(4)}
    waited_s = dict.fromkeys(("chip (1, 0)", "chip (0, 1)", "prefetch"), 0.0)
    for event in waits[3]:
        waited_s[event["args"]["for"]] += event["dur"] * 1e-6
    # The neighbour above waits for its own neighbour, which waits for the slow chip.
    assert waited_s["chip (1, 0)"] > 2 * waited_s["chip (0, 1)"]
    first = report.to_dict()["device"]["stragglers"][0]
    assert first["chip"] == [1, 0]
    assert waited_s["chip (1, 0)"] == pytest.approx(first["waited_s"], rel=0.2)
    starts = {e["id"]: e for e in events["device"] if e["ph"] == "s" and e["cat"] == "wait"}
    ends = {e["id"]: e for e in events["device"] if e["ph"] == "f" and e["cat"] == "wait"}
    assert starts.keys() == ends.keys() != set()
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"]
    of_rank_3 = {ends[n]["pid"] for n, start in starts.items() if start["pid"] == 3}
    assert 2 in of_rank_3


def test_a_healthy_mesh_waits_for_nobody(tmp_path):
    spans, events, _ = traced(tmp_path, trace_steps="1", prompt_tokens=((1, 2, 3),) * 4)
    assert not any(track == "waiting" for clock, _, track in spans if clock == "device")
    assert not any(e.get("cat") == "wait" for e in events["device"])


def test_steps_are_chosen_and_what_is_none_is_refused(tmp_path):
    spans, _, _ = traced(tmp_path, trace_steps="p2,2", max_new_tokens=4)
    for clock in ("device", "host"):
        names = {e["name"] for e in spans[clock, 0, "program"]}
        steps = {name for name in names if name.startswith(("prefill", "decode"))}
        assert steps == {"prefill 2", "decode 2"}
    with pytest.raises(ConfigError, match="--trace-steps is numbers and ranges, as p1,1-3"):
        replace(RUN, trace_steps="first")
