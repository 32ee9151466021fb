"""The command as users start it: mpirun, arguments, output, and every way to get it wrong."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from galaxy_mpi.checkpoints import locate

ROOT = Path(__file__).parents[2]
MPIRUN = Path(sys.executable).parent / "mpirun"
LIMIT_S = 600


def run(ranks: int, *arguments: str, cwd: Path | None = None, **environ: str):
    """Run the bare command with only what activation sets in the environment."""
    env = {
        "PATH": f"{MPIRUN.parent}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **environ,
    }
    return subprocess.run(
        ["mpirun", "-n", str(ranks), "python", "-m", "galaxy_mpi.decode", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def tokens_and_rest(path: Path) -> dict:
    """Return everything in a JSON report that must be reproducible."""
    found = json.loads(path.read_text())
    del found["host"]
    return found


def still_running() -> list[str]:
    """Return the command lines of decode ranks that are alive."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"galaxy_mpi.decode" in words and b"python" in words[0]:
            alive.append(b" ".join(words).decode())
    return alive


def nobody_is_left() -> bool:
    """Return whether all ranks are gone, within the 20 s that they are given."""
    deadline = time.monotonic() + 20
    while still_running() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not still_running()


def refused(result, said: str) -> None:
    """Assert one line from rank 0, a non-zero exit, and nobody left."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert len(lines) == 1, result.stderr
    assert said in lines[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert nobody_is_left()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The tokens of one default run on 32 chips, from a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    result = run(32, "--max-new-tokens", "4", "--json", "out.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return result, folder / "out.json"


def test_the_bare_command_continues_32_prompts_on_32_chips(reference):
    result, path = reference
    found = json.loads(path.read_text())
    assert found["mesh"] == "8x4"
    assert [len(tokens) for tokens in found["tokens"]] == [4] * 32
    assert "[user 0] It is a truth universally acknowledged, that a|" in result.stdout
    assert "host: decode step" in result.stdout
    assert "decoding" in result.stderr
    assert "UCX" not in result.stderr


def test_tokens_and_figures_outside_host_are_the_same_on_another_transport(reference, tmp_path):
    result = run(
        32, "--max-new-tokens", "4", "--transport", "mpi", "--json", str(tmp_path / "a.json")
    )
    assert result.returncode == 0, result.stderr
    assert tokens_and_rest(tmp_path / "a.json") == tokens_and_rest(reference[1])


def test_five_runs_and_a_busy_machine_give_the_same_bytes(tmp_path):
    arguments = ["--mesh", "2x2", "--max-new-tokens", "6", "--quiet", "--temperature", "0.8"]
    outcomes = []
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for number in range(5):
            path = tmp_path / f"{number}.json"
            result = run(4, *arguments, "--json", str(path))
            assert result.returncode == 0, result.stderr
            assert result.stderr == ""
            texts = result.stdout.split("model  ")[0]
            outcomes.append((texts, tokens_and_rest(path)))
            if number == 2:
                busy.kill()
    finally:
        busy.kill()
        busy.wait()
    assert all(outcome == outcomes[0] for outcome in outcomes)
    path = tmp_path / "direct.json"
    run(4, *arguments, "--no-prefetch", "--json", str(path))
    assert json.loads(path.read_text())["tokens"] == outcomes[0][1]["tokens"]


def test_help_is_printed_once():
    result = run(4, "--help")
    assert result.returncode == 0
    assert result.stdout.count("--circular-buffer-bytes") == 2  # usage and its line


def test_prompts_from_a_file_and_from_arguments(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Emma was\nThe sea — and the sky\n")
    arguments = ["--mesh", "1x2", "--max-new-tokens", "2", "--quiet"]
    from_file = run(2, *arguments, "--prompts-file", str(prompts))
    from_words = run(2, *arguments, "--prompt", "Emma was", "--prompt", "The sea — and the sky")
    assert from_file.returncode == from_words.returncode == 0
    assert from_file.stdout.split("model ")[0] == from_words.stdout.split("model ")[0]
    assert "[user 1] The sea — and the sky|" in from_file.stdout


def test_without_mpirun_one_chip_is_a_run_and_leaves_nothing(tmp_path):
    before = {*os.listdir("/dev/shm"), *(n for n in os.listdir("/tmp") if n.startswith("sm_"))}
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "galaxy_mpi.decode",
            "--mesh",
            "1x1",
            "--max-new-tokens",
            "1",
            "--quiet",
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    after = {*os.listdir("/dev/shm"), *(n for n in os.listdir("/tmp") if n.startswith("sm_"))}
    assert after <= before


def test_a_wrong_number_of_ranks_says_what_to_type():
    refused(
        run(32, "--mesh", "3x4"),
        "the 3x4 mesh needs 12 ranks, this run has 32: start it with "
        "`mpirun -n 12` or pass --mesh 8x4",
    )


def test_an_exception_inside_one_rank_ends_all_32_with_its_traceback():
    result = run(32, GALAXY_MPI_TEST_FAIL="13:2")
    assert result.returncode != 0
    assert "galaxy_mpi: rank 13 failed:" in result.stderr
    assert "RuntimeError: GALAXY_MPI_TEST_FAIL asked rank 13 to fail" in result.stderr
    assert result.stderr.count("Traceback") == 1
    assert nobody_is_left()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "/no/such"], "no model folder at '/no/such'"),
        (["--prompt", ""], "prompt 1 is empty"),
        (["--prompt", "word " * 9000], "the cache has room for 8192"),
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
        (["--prompt", "a"] * 33, "33 prompts are more than the 32 users of a batch"),
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
        (ask_for_wider_layers, "has shape [1024, 256], config.json asks for [2048, 256]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_model_folders_are_one_line(tmp_path, damage, said):
    folder = tmp_path / "model"
    shutil.copytree(locate("demo"), folder)
    damage(folder)
    refused(run(2, "--mesh", "1x2", "--model", str(folder)), said)


def test_a_prompts_file_that_is_no_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"good\n\xff\xfe bad\n")
    refused(run(2, "--mesh", "1x2", "--prompts-file", str(path)), "can't decode byte")
    path.write_text("first\n\nthird\n")
    refused(run(2, "--mesh", "1x2", "--prompts-file", str(path)), "prompt 2 is empty")
    path.write_text("")
    refused(run(2, "--mesh", "1x2", "--prompts-file", str(path)), "has no line")


def test_a_killed_rank_ends_the_run_and_leaves_nothing_in_shared_memory():
    before = set(os.listdir("/dev/shm"))
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    job = subprocess.Popen(
        [
            MPIRUN,
            "-n",
            "4",
            sys.executable,
            "-m",
            "galaxy_mpi.decode",
            "--mesh",
            "2x2",
            "--quiet",
            "--max-new-tokens",
            "5000",
        ],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(still_running()) < 4:
        time.sleep(0.2)
    time.sleep(3)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    subprocess.run(["kill", "-9", children[-1]], check=True)
    assert job.wait(timeout=120) != 0
    time.sleep(0.5)
    assert nobody_is_left()
    assert set(os.listdir("/dev/shm")) <= before
