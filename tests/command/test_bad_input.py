"""Every way to get it wrong: one line from rank 0, a non-zero exit, nobody left."""

import json
import shutil
from pathlib import Path

import pytest

from galaxy_mpi.checkpoints import locate
from tests.command.decode_command import nobody_is_left, refused, run


def test_a_wrong_number_of_ranks_says_what_to_type():
    refused(
        run(2, "--mesh", "3x4"),
        "the 3x4 mesh needs 12 ranks, this run has 2: start it with "
        "`mpirun -n 12` or pass --mesh 2x1 or --chips-per-rank 6",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "/no/such"], "no model folder at '/no/such'"),
        (["--prompt", ""], "the prompt of user 0 is empty"),
        (["--prompt", "word " * 9000], "the model supports 8192 positions"),
        (["--prompt", "word " * 300, "--cache-blocks", "2"], "user 0 rejected: its prompt of"),
        (["--machine", "tpu"], "no machine 'tpu'; choose blackhole_galaxy, n150"),
        (["--page-size", "0"], "--page-size must be at least 1, got 0"),
        (["--cache-blocks", "0"], "--cache-blocks must be at least 1, got 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--max-new-tokens", "-3"], "--max-new-tokens must be at least 1, got -3"),
        (["--max-new-tokens", "many"], "--max-new-tokens takes a whole number, got 'many'"),
        (["--precision", "int4"], "--precision: no 'int4'; choose performance, accuracy, float32"),
        (
            ["--json", "/no/such/folder/out.json"],
            "--json /no/such/folder/out.json cannot be written",
        ),
        (["--json", "/"], "is a folder"),
        (["--mesh", "two"], "a mesh is written ROWSxCOLUMNS"),
        (["--batch", "33"], "--batch is at most 32 users, got 33"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--prompts-file", "/no/such.txt"], "No such file"),
        (["--layers", "9"], "has 4 layers"),
        (["--circular-buffer-bytes", "100"], "cannot hold layer 0"),
        (["--top-k", "99"], "--top-k must be 1 to 32, got 99"),
        (["--transport", "tcp"], "no transport 'tcp'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line(arguments, said):
    mesh = [] if "--mesh" in arguments else ["--mesh", "1x2"]
    refused(run(2, *mesh, *arguments), said)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{broken")


def unknown_architecture(folder: Path) -> None:
    text = (folder / "config.json").read_text().replace("LlamaForCausalLM", "MambaForCausalLM")
    (folder / "config.json").write_text(text)


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def drop_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def ask_for_more_layers(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 5}))


def ask_for_wider_layers(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"intermediate_size": 2048}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_config, "config.json is not readable JSON"),
        (unknown_architecture, "MambaForCausalLM"),
        (cut_short, "damaged or cut short"),
        (drop_the_tokenizer, "no tokenizer at"),
        (ask_for_more_layers, "tensor model.layers.4.self_attn.q_proj.weight is in no"),
        (ask_for_wider_layers, "has shape [1024, 256], its config asks for [2048, 256]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_model_folders_are_one_line(tmp_path, damage, said):
    folder = tmp_path / "model"
    shutil.copytree(locate("demo"), folder)
    damage(folder)
    refused(run(2, "--mesh", "1x2", "--model", str(folder)), said)


def test_what_is_of_device_time_only_is_refused_where_there_is_none():
    for arguments in (["--slow-chip", "0,0,2"], ["--trace", "trace.json"]):
        result = run(2, "--mesh", "1x2", "--precision", "float32", *arguments)
        refused(result, "need device time, which float32 does not have")


def test_a_prompts_file_that_is_no_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"good\n\xff\xfe bad\n")
    refused(run(2, "--mesh", "1x2", "--prompts-file", str(path)), "line 2 is not UTF-8")
    path.write_text("first\n\nthird\n")
    refused(run(2, "--mesh", "1x2", "--prompts-file", str(path)), "line 2 is empty")
    path.write_text("")
    refused(run(2, "--mesh", "1x2", "--prompts-file", str(path)), "has no line")


def test_a_switch_that_is_neither_0_nor_1():
    refused(run(2, "--mesh", "1x2", LINE_RS="yes"), "LINE_RS is 1 (line) or 0 (ring), got 'yes'")


def test_numbers_that_no_run_can_have_are_one_line():
    for arguments, said in (
        (["--page-size", str(10**12)], "--page-size must be at most 65536"),
        (["--cache-blocks", str(10**15)], "--cache-blocks must be at most 1048576"),
        (["--page-size", "65536", "--cache-blocks", "65536"], "positions a column, at most"),
        (["--max-new-tokens", "9" * 30], "--max-new-tokens must be at most 1048576"),
        (["--circular-buffer-bytes", "9" * 30], "--circular-buffer-bytes must be at most"),
        (["--prompt", "a\udcff"], "the prompt of user 0 is not UTF-8"),
        (["--model", "~nobody-of-this-name/x"], "no model folder at '~nobody-of-this-name/x'"),
    ):
        refused(run(2, "--mesh", "1x2", *arguments), said)


def chat_bomb(folder: Path) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": loop}))


def evil_regex(folder: Path) -> None:
    fields = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    fields["pre_tokenizer"] = split | {"invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(fields), "utf-8")


def gelu(folder: Path) -> None:
    text = (folder / "config.json").read_text().replace('"silu"', '"gelu"')
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (chat_bomb, "chat template cannot be rendered: it "),
        (evil_regex, "cannot tokenize the prompt of user 0: Onig: Regex search error"),
        (gelu, "hidden_act is 'gelu', which changes the maths and is not supported"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hostile_model_folders_end_all_ranks_with_a_line(tmp_path, damage, said):
    folder = tmp_path / "model"
    shutil.copytree(locate("demo"), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    damage(folder)
    chat = ["--chat"] if damage is chat_bomb else []
    result = run(2, "--mesh", "1x2", "--model", str(folder), "--prompt", "a" * 60 + "!", *chat)
    refused(result, said)


def test_what_was_computed_is_printed_though_a_file_cannot_be_written(tmp_path):
    trace = tmp_path / "trace.json"
    files = ["--json", "/dev/full", "--trace", str(trace)]
    result = run(2, "--mesh", "1x2", "--prompt", "She", "--max-new-tokens", "2", *files)
    assert result.returncode != 0
    assert "[user 0] She|" in result.stdout
    assert "host: decode step" in result.stdout
    assert "galaxy_mpi: /dev/full cannot be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(trace.read_text())["traceEvents"]
    assert nobody_is_left()


def test_keys_that_nobody_knows_are_told_once_and_not_to_the_quiet(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(locate("demo"), folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"wobble": 3}))
    words = ["--mesh", "1x2", "--model", str(folder), "--prompt", "She", "--max-new-tokens", "1"]
    result = run(2, *words)
    assert result.returncode == 0
    assert result.stderr.count("config.json: unknown and ignored: wobble") == 1
    assert run(2, *words, "--quiet").stderr == ""
