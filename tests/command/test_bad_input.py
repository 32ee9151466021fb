"""Every way to get it wrong: one line from rank 0, a non-zero exit, nobody left."""

import json
import shutil
from pathlib import Path

import pytest

from galaxy_mpi.checkpoints import locate
from tests.command.decode_command import refused, run


def test_a_wrong_number_of_ranks_says_what_to_type():
    refused(
        run(32, "--mesh", "3x4"),
        "the 3x4 mesh needs 12 ranks, this run has 32: start it with "
        "`mpirun -n 12` or pass --mesh 8x4",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "/no/such"], "no model folder at '/no/such'"),
        (["--prompt", ""], "prompt 1 is empty"),
        (["--prompt", "word " * 9000], "the model was made for 8192 positions"),
        (["--prompt", "word " * 300, "--cache-blocks", "2"], "user 0 refused: its prompt of"),
        (["--machine", "tpu"], "no machine 'tpu'; choose blackhole_galaxy, n150"),
        (["--page-size", "0"], "--page-size must be at least 1, got 0"),
        (["--cache-blocks", "0"], "--cache-blocks must be at least 1, got 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--max-new-tokens", "-3"], "--max-new-tokens must be at least 1, got -3"),
        (["--max-new-tokens", "many"], "invalid int value: 'many'"),
        (["--precision", "int4"], "no precision 'int4'; choose performance, accuracy, float32"),
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
        refused(result, "are of device time, which float32 does not have")


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
