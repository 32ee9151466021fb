"""The whole model with all chips in one process, held against Hugging Face transformers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.checkpoints import default_prompts, locate
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.modes import DecodeMode, PrefillMode
from galaxy_mpi.engine.report_text import report_text
from galaxy_mpi.engine.request import EndReason
from galaxy_mpi.errors import PrefetchError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from tests.chips.playing import connect, play
from tests.prompts import default_ids, prompt_of
from tests.reference import greedy_tokens

RUN = RunConfig(precision="float32", max_new_tokens=32)


@pytest.mark.parametrize("mesh", ["1x1", "2x2", "8x4"])
def test_float32_tokens_are_those_of_transformers(mesh):
    prompts = default_prompts()
    assert len(prompts) == 32
    report, _ = play(replace(RUN, mesh=Mesh.parse(mesh)))
    tokenizer = TextTokenizer.of_folder(locate("demo"))
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
    (stats,) = (mode.prefetch for mode in small.decode)
    if precision == "float32":  # read where it lies: nothing is unpacked
        assert (stats.peak_bytes, stats.full_waits) == (0, 0)
    else:
        assert 0 < stats.peak_bytes <= stats.capacity_bytes == 128 * 512 * 4
        assert stats.full_waits > 0


@pytest.mark.parametrize("precision", ["performance", "float32"])
@pytest.mark.parametrize("n_tokens", [40, 2048])
def test_replicas_are_identical_bit_for_bit(precision, n_tokens):
    """Residual over the rows of a column, logits over the columns of a row, tokens everywhere."""
    mesh = Mesh(4, 2)
    residuals = {rank: [] for rank in range(mesh.n_chips)}
    prompts = (prompt_of(n_tokens), prompt_of(30))
    run = replace(RUN, precision=precision, mesh=mesh, max_new_tokens=2, prompt_tokens=prompts)

    def tapped(program):
        def tap(chip, use, outputs):
            for tensor, array in zip(use.outputs, outputs, strict=True):
                if tensor.name.endswith((".residual", "add.out")):
                    chip.call(lambda a=array: residuals[chip.rank].append(a.tobytes()))

        return tap

    with connect(run) as engine:
        decode = DecodeMode(engine.chips, engine.programs, None, taps=[tapped])
        prefill = PrefillMode(engine.chips, engine.programs, taps=[tapped])
        scheduler, results = engine.new_scheduler(), []
        while requests := scheduler.next_prefill():
            work = scheduler.prefill_pass(requests)
            logits = prefill.run(work, all_logits=True).results("logits")
            results.append([of_chip.copy() for of_chip in logits])
            engine.prefill(scheduler, requests)
        tables = {column: scheduler.page_table(column) for column in range(mesh.cols)}
        logits = decode.run(scheduler.tokens, tables, all_logits=True).results("logits")
        results.append([of_chip.copy() for of_chip in logits])
        samples = decode.run(scheduler.tokens, tables).results("tokens")
        for rank in range(mesh.n_chips):
            row, col = mesh.coord(rank)
            # Two adds a layer of a pass; two norms a layer of a step and the last, in two steps.
            assert len(residuals[rank]) == 2 * 2 * 4 + 2 * (2 * 4 + 1)
            assert residuals[rank] == residuals[mesh.rank(0, col)]
            assert samples[rank].tobytes() == samples[0].tobytes()
            for logits in results:
                assert logits[rank].tobytes() == logits[mesh.rank(row, 0)].tobytes()


def test_one_user_alone_and_idle_places():
    run = replace(RUN, prompts=("It was impossible for her to",), mesh=Mesh(2, 2))
    report, _ = play(run)
    tokenizer = TextTokenizer.of_folder(locate("demo"))
    ids = [tokenizer.encode("It was impossible for her to", 1)]
    assert report.tokens == greedy_tokens(locate("demo"), ids, 32)
    assert len(report.text) == 1


def test_a_batch_that_the_columns_do_not_divide_is_padded_with_idle_users():
    report, engine = play(replace(RUN, batch=3, max_new_tokens=4, mesh=Mesh(1, 2)))
    assert len(report.tokens) == 3
    assert len(engine.new_scheduler().tokens) == 4


def test_a_user_whose_cache_is_full_ends_and_the_others_go_on():
    prompts = (prompt_of(120), prompt_of(9))
    run = replace(RUN, prompt_tokens=prompts, max_new_tokens=12, mesh=Mesh(1, 1))
    whole, _ = play(run)
    short, _ = play(replace(run, cache_blocks=2))
    assert short.requests[0].ended is EndReason.CACHE_FULL
    assert short.requests[1].ended is EndReason.LENGTH
    assert short.tokens[0] == whole.tokens[0][:9]
    assert short.tokens[1] == whole.tokens[1]


def test_sampling_repeats_with_its_seed_and_changes_with_another():
    run = replace(
        RUN, mesh=Mesh(2, 2), max_new_tokens=8, sampling=SamplingParams(temperature=0.9, seed=4)
    )
    first, again = play(run)[0].tokens, play(run)[0].tokens
    other = play(replace(run, sampling=SamplingParams(temperature=0.9, seed=5)))[0].tokens
    assert first == again != other


def test_fewer_layers_are_a_slice_of_the_model():
    report, engine = play(replace(RUN, n_layers=2, max_new_tokens=2, mesh=Mesh(1, 2)))
    assert [len(held.state.caches) for held in engine.chips.held] == [2, 2]
    assert report.to_dict()["memory"]["weights_bytes_per_rank"] > 0


def test_a_prefetcher_that_dies_ends_the_run_with_its_cause():
    def fail(weight):
        if weight.layer == 2:
            raise OSError("disk gone")

    with pytest.raises(PrefetchError, match="layer 2 wqkv") as caught:
        play(replace(RUN, mesh=Mesh(1, 1), precision="performance"), before_unpack=fail)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_layer_of_a_prompt_is_counted_once_however_many_chips_a_process_plays():
    layers = []
    run = replace(RUN, mesh=Mesh(2, 2), max_new_tokens=1, prompt_tokens=((1, 2, 3),))
    play(run, prefilled_layer=lambda requests, layer, n_layers: layers.append((layer, n_layers)))
    assert layers == [(layer, 4) for layer in range(4)]


def test_the_report_has_what_its_readers_expect(tmp_path):
    path = tmp_path / "out.json"
    report, _ = play(replace(RUN, batch=6, max_new_tokens=3, mesh=Mesh(1, 2), json_path=path))
    report.write_files()
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    found = json.loads(path.read_text())
    assert found["schema_version"] == 2
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
        "prefill_s",
        "mode_switch_s",
    ):
        assert host[name] >= 0
    assert len(host["time_to_first_token_by_user_s"]) == 6
    assert found["prompt_tokens"] == [len(ids) for ids in default_ids()[:6]]
    assert found["cached_tokens"] == [0] * 6
    parts = host["compute_s"] + host["collectives_s"] + host["prefetch_stall_s"]
    assert parts == pytest.approx(host["decode_step_s"])
    text = report_text(report, show_all=False)
    assert "[user 3]" in text
    assert "host: time to first token" in text
    assert "[user 4]" not in text
    assert "and 2 more users" in text
    assert "[user 5]" in report_text(report, show_all=True)
