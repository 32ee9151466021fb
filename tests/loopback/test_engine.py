"""The whole model with all chips in one process, held against Hugging Face transformers.

The 8x4 mesh is held against it over real ranks (tests/mpi/test_tokens.py).
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.checkpoints import TextTokenizer, default_prompts, locate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import EndReason, Engine
from galaxy_mpi.engine.engine import Hooks
from galaxy_mpi.errors import PrefetchError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import LoopbackWorld, Mesh
from tests.reference import greedy_tokens

RUN = RunConfig(precision="float32", max_new_tokens=32)


def play(run: RunConfig, **hooks):
    """Return rank 0's report and every rank's engine, after the run."""
    engines = {}

    def chip(transport):
        with Engine(run, transport, Hooks(**hooks)) as engine:
            engines[transport.rank] = engine
            return engine.generate()

    reports = LoopbackWorld(run.mesh).run(chip)
    assert reports[1:] == [None] * (run.mesh.n_chips - 1)
    return reports[0], engines


@pytest.mark.parametrize("mesh", ["1x1", "1x2", "2x2", "2x4"])
def test_float32_tokens_are_those_of_transformers(mesh):
    prompts = default_prompts()
    assert len(prompts) == 32
    report, _ = play(replace(RUN, mesh=Mesh.parse(mesh)))
    tokenizer = TextTokenizer(locate("demo"))
    ids = [tokenizer.encode(prompt, n) for n, prompt in enumerate(prompts)]
    assert report.tokens == greedy_tokens(locate("demo"), ids, 32)


@pytest.mark.parametrize("precision", ["performance", "accuracy"])
def test_rounded_runs_stay_close_to_the_reference(precision):
    """First tokens of most users agree; what rounding costs exactly is measured elsewhere."""
    exact, _ = play(replace(RUN, max_new_tokens=1, mesh=Mesh(2, 2)))
    rounded, _ = play(replace(RUN, max_new_tokens=1, mesh=Mesh(2, 2), precision=precision))
    agree = np.mean([a == b for a, b in zip(exact.tokens, rounded.tokens, strict=True)])
    assert agree >= 0.75


@pytest.mark.parametrize("precision", ["performance", "float32"])
def test_tokens_are_the_same_with_and_without_prefetcher_and_with_a_small_buffer(precision):
    run = replace(RUN, precision=precision, max_new_tokens=6, mesh=Mesh(2, 2))
    report, _ = play(run)
    # w1 of a chip of 2x2: 128 x 512 values.
    small, _ = play(replace(run, circular_buffer_bytes=128 * 512 * 4))
    direct, _ = play(replace(run, prefetch=False))
    assert report.tokens == small.tokens == direct.tokens
    assert all(0 < s.peak_bytes <= 128 * 512 * 4 for s in small.prefetch)
    assert sum(s.full_waits for s in small.prefetch) > 0


@pytest.mark.parametrize("precision", ["performance", "float32"])
def test_replicas_are_identical_bit_for_bit(precision):
    """Residual over the rows of a column, logits over the columns of a row, tokens everywhere."""
    mesh = Mesh(4, 2)
    seen = {}

    def chip(transport):
        run = replace(RUN, precision=precision, mesh=mesh, max_new_tokens=3)
        with Engine(run, transport) as engine:
            residuals, logits = [], []
            add_norm, head = engine.system.add_norm, engine.system.logits
            engine.system.add_norm = lambda *a: residuals.append(r := add_norm(*a)) or r
            engine.system.logits = lambda *a: logits.append(r := head(*a)) or r
            batch = engine._new_batch()
            while not batch.is_done:
                engine.step(batch)
            seen[transport.rank] = (
                [(h.tobytes(), r.tobytes()) for h, r in residuals],
                [x.tobytes() for x in logits],
                batch.generated,
            )

    LoopbackWorld(mesh).run(chip)
    for rank, (residuals, logits, tokens) in seen.items():
        row, col = mesh.coord(rank)
        assert residuals == seen[mesh.rank(0, col)][0]
        assert logits == seen[mesh.rank(row, 0)][1]
        assert tokens == seen[0][2]


def test_one_user_alone_and_idle_places():
    run = replace(RUN, prompts=("It was impossible for her to",), mesh=Mesh(2, 2))
    report, _ = play(run)
    tokenizer = TextTokenizer(locate("demo"))
    ids = [tokenizer.encode("It was impossible for her to", 1)]
    assert report.tokens == greedy_tokens(locate("demo"), ids, 32)
    assert len(report.text) == 1


def test_a_batch_that_the_columns_do_not_divide_is_padded_with_idle_users():
    report, engines = play(replace(RUN, batch=3, max_new_tokens=4, mesh=Mesh(1, 2)))
    assert len(report.tokens) == 3
    assert engines[0]._n_places == 4


def test_a_user_whose_cache_is_full_ends_and_the_others_go_on():
    run = replace(RUN, prompts=("No one", "It is a truth universally"), max_new_tokens=8)
    run = replace(run, mesh=Mesh(1, 1))
    whole, _ = play(run)

    def chip(transport):
        engine = Engine(run, transport)
        engine._n_positions = 8
        return engine.generate()

    (short,) = LoopbackWorld(run.mesh).run(chip)
    assert EndReason.CACHE_FULL in short.ended
    for tokens, reference in zip(short.tokens, whole.tokens, strict=True):
        assert tokens == reference[: len(tokens)]


def test_sampling_repeats_with_its_seed_and_changes_with_another():
    run = replace(
        RUN, mesh=Mesh(2, 2), max_new_tokens=8, sampling=SamplingParams(temperature=0.9, seed=4)
    )
    first, again = play(run)[0].tokens, play(run)[0].tokens
    other = play(replace(run, sampling=SamplingParams(temperature=0.9, seed=5)))[0].tokens
    assert first == again != other


def test_fewer_layers_are_a_slice_of_the_model():
    report, engines = play(replace(RUN, n_layers=2, max_new_tokens=2, mesh=Mesh(1, 2)))
    assert len(engines[0].caches) == 2
    assert report.to_dict()["memory"]["weights_bytes_per_rank"] > 0


def test_a_prefetcher_that_dies_ends_the_run_with_its_cause():
    def fail(weight):
        if weight.layer == 2:
            raise OSError("disk gone")

    with pytest.raises(PrefetchError, match="layer 2 wqkv") as caught:
        play(replace(RUN, mesh=Mesh(1, 1)), before_unpack=fail)
    assert isinstance(caught.value.__cause__, OSError)


def test_the_report_has_what_its_readers_expect(tmp_path):
    report, _ = play(replace(RUN, batch=6, max_new_tokens=3, mesh=Mesh(1, 2)))
    path = tmp_path / "out.json"
    report.write_json(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    found = json.loads(path.read_text())
    assert found["schema_version"] == 1
    assert (found["model"], found["mesh"], found["system"]) == ("demo", "1x2", "galaxy")
    assert found["precision"] == "float32"
    assert len(found["tokens"]) == len(found["text"]) == 6
    assert found["ended"] == ["length"] * 6
    host = found["host"]
    for name in (
        "decode_step_s",
        "tokens_per_s",
        "time_to_first_token_s",
        "collectives_s",
        "prefetch_stall_s",
        "compute_s",
        "load_s",
    ):
        assert host[name] >= 0
    parts = host["compute_s"] + host["collectives_s"] + host["prefetch_stall_s"]
    assert parts == pytest.approx(host["decode_step_s"])
    text = report.to_text(show_all=False)
    assert "[user 3]" in text
    assert "[user 4]" not in text
    assert "and 2 more users" in text
    assert "[user 5]" in report.to_text(show_all=True)
