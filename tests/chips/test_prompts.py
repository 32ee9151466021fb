"""Many prompts: files, standard input, JSON lines, those that are bad, those that are too long."""

import codecs
import io
import json
import sys
from dataclasses import replace

import pytest

from galaxy_mpi import decode
from galaxy_mpi.engine.report_text import report_text
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from tests.chips.changes import RUN, play
from tests.chips.playing import connect

COMMAND = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "1", "--precision", "float32"]
COMMAND += ["--max-new-tokens", "3", "--cache-blocks", "16"]


def decoded(folder, *words):
    """Return the report of a command."""
    path = folder / "out.json"
    assert decode.main([*COMMAND, *words, "--quiet", "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_lines_json_lines_and_standard_input_are_the_same_prompts(tmp_path, monkeypatch):
    prompts = ["It is a truth", "Emma Woodhouse", "The family of Dashwood"]
    plain, lines = tmp_path / "p.txt", tmp_path / "p.jsonl"
    plain.write_text("".join(f"{prompt}\n" for prompt in prompts))
    objects = [{"prompt": prompts[0], "id": 7}, prompts[1], {"prompt": prompts[2]}]
    lines.write_text("".join(f"{json.dumps(one)}\n" for one in objects))
    usual = decoded(tmp_path, *(word for p in prompts for word in ("--prompt", p)))
    assert decoded(tmp_path, "--prompts-file", str(plain))["tokens"] == usual["tokens"]
    assert decoded(tmp_path, "--prompts-file", str(lines))["tokens"] == usual["tokens"]
    for path in (plain, lines):  # as some editors write them
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        assert decoded(tmp_path, "--prompts-file", str(path))["tokens"] == usual["tokens"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plain.read_bytes())))
    assert decoded(tmp_path, "--prompts-file", "-")["tokens"] == usual["tokens"]


def test_a_transport_that_there_is_not_is_an_error_without_mpi_too(capfd):
    assert decode.main([*COMMAND, "--transport", "banana"]) == 2
    assert capfd.readouterr().err == "galaxy_mpi: no transport 'banana'; choose auto, mpi, shared\n"


def test_a_json_line_may_have_many_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "It is\n\na truth"}) + "\n")
    one = decoded(tmp_path, "--prompts-file", str(path))
    assert one["tokens"] == decoded(tmp_path, "--prompt", "It is\n\na truth")["tokens"]


def test_users_who_get_fewer_tokens_than_asked_are_told_at_the_start(tmp_path, caplog):
    caplog.set_level("WARNING", "galaxy_mpi")
    asked = ["--prompt", "Emma", "--prompt", "It is a truth", "--cache-blocks", "1"]
    assert decode.main([*COMMAND, *asked, "--max-new-tokens", "64"]) == 0
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == (
        "galaxy_mpi: --max-new-tokens 64: the KV cache (--cache-blocks) of 64 positions leaves 60 "
        "for user 1, and fewer than 64 for 1 more user"
    )
    caplog.clear()
    assert decode.main([*COMMAND, *asked, "--max-new-tokens", "60"]) == 0
    assert not caplog.records


BAD = [
    (b"  \n", "line 2 is empty"),
    (b"\xff\xfe\n", "line 2 is not UTF-8"),
    (b"long " * 9000 + b"\n", "the prompt of user 1 has"),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_a_bad_prompt_ends_the_run_or_is_left_out(tmp_path, capsys, line, said):
    path = tmp_path / "p.txt"
    path.write_bytes(b"It is a truth\n" + line + b"Emma Woodhouse\n")
    assert decode.main([*COMMAND, "--prompts-file", str(path)]) == 2
    assert said in capsys.readouterr().err
    out = tmp_path / "out.json"
    words = [*COMMAND, "--prompts-file", str(path), "--skip-bad", "--json", str(out)]
    assert decode.main(words) == 0
    told = capsys.readouterr().err
    assert "galaxy_mpi: user 1 is left out: " in told
    assert said in told
    found = json.loads(out.read_text())
    usual = decoded(tmp_path, "--prompt", "It is a truth", "--prompt", "Emma Woodhouse")
    assert found["tokens"] == [usual["tokens"][0], [], usual["tokens"][1]]
    assert found["ended"] == ["length", "refused", "length"]


def test_json_lines_that_are_none_are_told(tmp_path):
    path = tmp_path / "p.jsonl"
    for line, said in (("{", "line 1 is not JSON"), ('{"text": "a"}', "line 1 needs a text")):
        path.write_text(line + "\n")
        with pytest.raises(ConfigError, match=said):
            play(replace(RUN, prompt_tokens=None, prompts_file=path))


def test_if_all_are_bad_there_is_no_run(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text(" \n \n")
    with pytest.raises(ConfigError, match="no prompt is left: user 0 is left out: .* line 1"):
        play(replace(RUN, prompt_tokens=None, prompts_file=path, skip_bad=True))


def test_of_a_long_prompt_the_end_is_taken():
    ids = tuple(range(100, 1300))
    run = replace(RUN, prompt_tokens=(ids,), cache_blocks=2, page_size=64, max_new_tokens=28)
    cut = play(run, truncate=True)
    assert cut.requests[0].prompt == list(ids[-100:])  # 128 positions less 28 new tokens
    assert len(cut.tokens[0]) == 28
    assert cut.tokens == play(run, prompt_tokens=(ids[-100:],)).tokens
    short = replace(run, prompt_tokens=(ids[:5],), truncate=True)
    assert play(short).requests[0].prompt == list(ids[:5])


def test_who_waits_for_a_place_is_told_on_both_clocks():
    run = replace(RUN, precision="performance", mesh=Mesh(2, 1), batch=1, max_new_tokens=4)
    found = play(run).to_dict()
    for clock in ("device", "host"):
        figures = found[clock]
        queue, first = figures["queue_wait_by_user_s"], figures["time_to_first_token_by_user_s"]
        per_token = figures["per_token_by_user_s"]
        ends = [one + 3 * each for one, each in zip(first, per_token, strict=True)]
        assert sorted(queue) == queue
        assert figures["run_s"] == pytest.approx(ends[-1])
        assert figures["new_tokens_per_s"] == pytest.approx(12 / figures["run_s"])
        assert set(figures["percentiles"]["per_token_s"]) == {"p50", "p95", "p99"}
    # One place: the next user's prefill begins when the one before has its last token.
    device = found["device"]
    assert device["queue_wait_by_user_s"][0] == 0
    first, each = device["time_to_first_token_by_user_s"], device["per_token_by_user_s"]
    assert device["queue_wait_by_user_s"][1:] == pytest.approx(
        [first[n] + 3 * each[n] for n in (0, 1)]
    )
    assert device["percentiles"]["time_to_first_token_s"]["p50"] == first[1]


def test_an_interrupt_leaves_what_there_is(tmp_path):
    def interrupt(step, scheduler):
        if step == 2:
            raise KeyboardInterrupt

    run = replace(RUN, precision="performance", max_new_tokens=9)
    with connect(run, after_step=interrupt) as engine:
        report = engine.generate()
    found = report.to_dict()
    assert found["interrupted"]
    assert [len(tokens) for tokens in found["tokens"]] == [3, 3, 3]
    assert found["tokens"] == [tokens[:3] for tokens in play(run).tokens]
    assert found["ended"] == [None] * 3
    assert found["device"]["steps"] == 2
    assert report_text(report, show_all=True).startswith("interrupted: ")
