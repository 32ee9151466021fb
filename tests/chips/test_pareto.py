"""Formats measured with all chips in this process, and the file that the search writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi import accuracy, decode, estimate, pareto
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.forced_pass import ForcedPass
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.engine.teacher import forced_answers
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.studies.candidates import Candidate
from galaxy_mpi.systems.precision import FLOAT32_PRECISION

ROOT = Path(__file__).parents[2]
PROSE = str(ROOT / "benchmarks" / "prose.txt")
TOKENS = list(range(40, 90))
BASE = (
    ("ff1_3", "bfp8"),
    ("ff2", "bfp8"),
    ("wqkv", "bf16"),
    ("wo", "bf16"),
    ("kv_cache", "bfp8"),
    ("activation", "mixed"),
)


class Reads:
    """A checkpoint that counts what is read of its matrices."""

    def __init__(self, checkpoint):
        self._checkpoint, self.names = checkpoint, []

    def read(self, name, layer, rows, cols):
        self.names.append(name)
        return self._checkpoint.read(name, layer, rows, cols)

    def __getattr__(self, name):
        return getattr(self._checkpoint, name)


def passes(system, mesh):
    run = RunConfig(prompt_tokens=((0,),), mesh=Mesh.parse(mesh), system=system, cache_blocks=1)
    plan, _ = make_plan(run)
    plan = plan._replace(checkpoint=Reads(plan.checkpoint))
    transport = LocalTransport(run.working_mesh)
    return run, plan, transport, lambda: ForcedPass(run, plan, transport, TOKENS)


def precision_of(run, plan, candidate):
    return run.wanted.of_layers(run.emulated_system, plan.model, candidate.settings, "some")


@pytest.mark.parametrize(
    ("system", "mesh"), [("galaxy", "2x2"), ("tt_transformers", "1x2"), ("tt_transformers", "2x2")]
)
def test_a_pass_that_begins_behind_kept_layers_has_the_bits_of_a_whole_one(system, mesh):
    run, plan, transport, new = passes(system, mesh)
    base = Candidate.uniform(BASE, 4)
    later = base.but(2, "ff1_3", "bfp4")
    shared, n_layers = new(), []
    for candidate, keeps in ((base, True), (later, True), (later.but(3, "wo", "bfp8"), False)):
        precision = precision_of(run, plan, candidate)
        before = shared.n_layers_run
        found = shared.logits(precision, keeps=keeps)
        n_layers.append(shared.n_layers_run - before)
        whole = new().logits(precision)
        assert list(found) == list(whole)
        for rank, logits in found.items():
            assert logits.tobytes() == whole[rank].tobytes()
    # Activations are as wide in all layers, so a layer does not depend on those behind it.
    assert n_layers == [4, 2, 1]
    answers = forced_answers(run, plan, transport, TOKENS, precision)
    whole = np.concatenate(list(found.values()), axis=1)
    assert whole.tobytes() == answers.logits_TV.tobytes()


def test_what_an_activation_is_cast_to_for_the_layer_behind_counts_as_the_layers_own():
    run, plan, _, new = passes("tt_transformers", "1x2")
    base = Candidate.uniform(BASE, 4)
    shared = new()
    shared.logits(precision_of(run, plan, base), keeps=True)
    other = precision_of(run, plan, base.but(2, "activation", "bfp8"))
    before = shared.n_layers_run
    found = shared.logits(other)
    assert shared.n_layers_run - before == 3  # layer 1 casts the stream for layer 2
    for rank, logits in new().logits(other).items():
        assert logits.tobytes() == found[rank].tobytes()


def test_a_weight_is_read_once_for_each_format():
    run, plan, _, new = passes("galaxy", "2x2")
    shared, base = new(), Candidate.uniform(BASE, 4)
    shared.logits(precision_of(run, plan, base))
    n_w2 = plan.checkpoint.names.count("w2")
    assert n_w2 == 4 * 4  # chips, layers
    shared.logits(precision_of(run, plan, base.but(1, "ff1_3", "bfp4")))
    shared.logits(precision_of(run, plan, base.but(1, "ff2", "bfp4")))
    shared.logits(precision_of(run, plan, base.but(1, "ff2", "bfp4")))
    shared.logits(FLOAT32_PRECISION)
    assert plan.checkpoint.names.count("w2") == n_w2 + 4 + n_w2


@pytest.mark.parametrize("options", [[], ["--by-layer"]])
def test_the_written_file_is_taken_and_has_the_promised_accuracy_and_time(
    options, tmp_path, capsys
):
    """Accuracy by transformers, which the search does not use; time by `estimate`."""
    written, told = tmp_path / "fast.json", tmp_path / "told.json"
    table, picture = tmp_path / "rows.csv", tmp_path / "front.png"
    text = ["--text", PROSE, "--tokens", "96"]
    ranks = ["--mesh", "2x2", "--chips-per-rank", "4"]
    files = ["--write", str(written), "--json", str(told), "--csv", str(table)]
    tried = ["--try", "wo=bfp8,bfp4", "--try", "wqkv=bf16", "--try", "kv_cache=bfp8", "--quiet"]
    tried += ["--try", "activation=mixed"]
    if not options:
        files += ["--plot", str(picture)]
    asked = ["--target", "top1>=92", *tried, *options]
    assert pareto.main([*text, *ranks, *files, *asked]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    content = json.loads(told.read_text())
    answer = content["points"][content["answer"]]
    assert answer["top1"] >= 0.92
    assert answer["decode_step_s"] == min(
        point["decode_step_s"] for point in content["points"] if point["top1"] >= 0.92
    )
    assert answer["is_on_front"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == len(content["points"])
    assert [float(r["decode_step_s"]) for r in rows] == sorted(
        float(r["decode_step_s"]) for r in rows
    )
    if not options:
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        assert any(isinstance(f, list) for p in content["points"] for f in p["formats"].values())

    right = tmp_path / "accuracy.json"
    formats = ["--optimizations", str(written)]
    whole = ["--prefill", "96", "--json", str(right)]
    assert accuracy.main([*text, *ranks, *whole, *formats]) == 0
    (row,) = json.loads(right.read_text())["precisions"]
    assert (row["positions"], row["top1"], row["top5"]) == (96, answer["top1"], answer["top5"])
    assert row["logits_pcc"] == pytest.approx(answer["pcc"], abs=1e-6)
    assert row["perplexity"] == pytest.approx(answer["perplexity"], rel=1e-5)

    clock = tmp_path / "estimate.json"
    assert estimate.main(["--model", "demo", *formats, "--json", str(clock)]) == 0
    figures = json.loads(clock.read_text())
    for name in ("decode_step_s", "time_to_first_token_s", "link_bytes"):
        assert figures["device"][name] == answer[name]
    assert figures["memory"]["weights_bytes"] == answer["weights_bytes"]
    assert figures["device"]["decode_step_s_margin"] == content["target"]["decode_step_s_margin"]

    run = ["--batch", "2", "--max-new-tokens", "2", "--quiet", "--json", str(tmp_path / "run.json")]
    assert decode.main([*ranks, *formats, *run]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == "fast"


def test_a_target_that_nothing_meets_is_exit_code_1_and_no_file(tmp_path, capsys):
    written = tmp_path / "none.json"
    arguments = ["--mesh", "1x1", "--chips-per-rank", "1", "--layers", "1", "--quiet", *ONE_FORMAT]
    arguments += ["--text", PROSE, "--tokens", "32", "--target", "kl<=0"]
    assert pareto.main([*arguments, "--write", str(written)]) == 1
    assert "nothing that was measured meets kl<=0" in capsys.readouterr().out
    assert not written.exists()


ONE_FORMAT = [
    f"--try={group}=bfp8" for group in ("ff1_3", "ff2", "wqkv", "wo", "kv_cache", "activation")
]


def test_activations_that_the_target_stores_otherwise_are_told(capsys):
    arguments = ["--text", PROSE, "--tokens", "32", "--layers", "1", "--quiet", *ONE_FORMAT]
    arguments += ["--machine", "t3000", "--target-mesh", "1x8", "--mesh", "2x2"]
    assert pareto.main([*arguments, "--chips-per-rank", "4"]) == 0
    told = "the target stores them as table 'row': --formats row does so for both"
    assert told in capsys.readouterr().out
    assert pareto.main([*arguments, "--chips-per-rank", "4", "--formats", "row"]) == 0
    assert told not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--text is missing; give a file of UTF-8 text"),
        (["--text", PROSE, "--tokens", "1"], "--tokens must be at least 2, got 1"),
        (["--text", PROSE, "--metric", "speed"], "--metric: no metric 'speed'; choose top1"),
        (["--text", PROSE, "--target", "fast"], "--target is for example top1>=95"),
        (["--text", PROSE, "--try", "w1=bfp8"], "--try: no tensor group 'w1'; choose ff1_3"),
        (["--text", PROSE, "--users", "99"], "--users must be 1 to 32, got 99"),
        (["--text", PROSE, "--machine", "p100"], "no machine 'p100'"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, said, capsys):
    assert pareto.main(["--mesh", "1x1", "--chips-per-rank", "1", "--quiet", *arguments]) == 2
    told = capsys.readouterr()
    assert f"galaxy_mpi: {said}" in told.err
    assert len(told.err.splitlines()) == 1
