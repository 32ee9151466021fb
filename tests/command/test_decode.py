"""The command as users start it: mpirun, arguments, output."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command.decode_command import (
    LIMIT_S,
    MPIRUN,
    command,
    environment,
    faulty,
    nobody_is_left,
    play,
    run,
    shared_files,
    still_running,
    texts_of,
    tokens_and_rest,
)


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


def test_runs_and_a_busy_machine_give_the_same_bytes(tmp_path):
    arguments = ["--mesh", "2x2", "--max-new-tokens", "6", "--quiet", "--temperature", "0.8"]
    outcomes = []
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for number in range(3):
            path = tmp_path / f"{number}.json"
            result = run(4, *arguments, "--json", str(path))
            assert result.returncode == 0, result.stderr
            assert result.stderr == ""
            outcomes.append((texts_of(result.stdout), tokens_and_rest(path)))
            if number == 1:
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
    assert result.stdout.count("usage: ") == 1
    assert result.stdout.count("--circular-buffer-bytes") == 1


def test_prompts_from_a_file_and_from_arguments(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Emma was\nThe sea — and the sky\n")
    arguments = ["--mesh", "1x2", "--max-new-tokens", "2", "--quiet"]
    from_file = run(2, *arguments, "--prompts-file", str(prompts))
    from_words = run(2, *arguments, "--prompt", "Emma was", "--prompt", "The sea — and the sky")
    assert from_file.returncode == from_words.returncode == 0
    assert texts_of(from_file.stdout) == texts_of(from_words.stdout)
    assert "[user 1] The sea — and the sky|" in from_file.stdout


def test_two_hundred_prompts_queue_for_32_places(tmp_path):
    """One line each; those that are alike get the same text, whenever their turn came."""
    prompts = tmp_path / "prompts.txt"
    lines = [f"{word} {n % 40}" for n, word in enumerate(["Emma", "It is", "The", "No one"] * 50)]
    prompts.write_text("\n".join(lines) + "\n")
    path = tmp_path / "out.json"
    result = run(4, "--mesh", "2x2", "--max-new-tokens", "3", "--prompts-file", str(prompts),
                 "--precision", "float32", "--json", str(path))  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(path.read_text())
    assert [len(tokens) for tokens in found["tokens"]] == [3] * 200
    assert found["tokens"][:40] == found["tokens"][40:80] == found["tokens"][160:]
    first_s = found["host"]["time_to_first_token_by_user_s"]
    assert len(first_s) == 200
    assert first_s[199] > first_s[0]
    assert "200 of 200 users done" in result.stderr
    assert "and 196 more users" in result.stdout


def test_a_long_prompt_has_a_bar_and_a_refused_one_a_line(tmp_path):
    """User 1 is past the cache of a column, the others go on."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("word " * 1200 + "\n" + "word " * 4000 + "\nShe was\n")
    arguments = ["--mesh", "2x2", "--max-new-tokens", "2", "--cache-blocks", "40"]
    result = run(4, *arguments, "--prompts-file", str(prompts))
    assert result.returncode == 0, result.stderr
    assert "prefill of user 0" in result.stderr
    assert "galaxy_mpi: user 1 rejected: its prompt of" in result.stderr
    assert "cache blocks of 64 positions, a column has 40; raise --cache-blocks" in result.stderr
    assert "[refused]" in result.stdout
    assert "[user 2] She was|" in result.stdout
    quiet = run(4, *arguments, "--prompts-file", str(prompts), "--quiet")
    assert quiet.stderr == ""
    assert texts_of(quiet.stdout) == texts_of(result.stdout)


def test_lines_are_chosen_by_the_environment_and_the_tokens_stay():
    arguments = ["--mesh", "2x2", "--max-new-tokens", "2", "--quiet", "--precision", "float32"]
    ring, line = run(4, *arguments), run(4, *arguments, LINE_RS="1", LINE_AG="1")
    assert line.returncode == 0, line.stderr
    assert texts_of(ring.stdout) == texts_of(line.stdout)


def test_an_estimate_is_printed_once_and_the_same_with_and_without_mpirun():
    arguments = ["-m", "galaxy_mpi.estimate", "--layers", "2", "--new-tokens", "2", "--json", "-"]
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    alone, together = (
        subprocess.run(
            [*launcher, sys.executable, *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        ).stdout
        for launcher in ([], [MPIRUN, "-n", "4"])
    )
    assert alone == together
    assert json.loads(alone)["device"]["decode_step_s"] > 0


def test_without_mpirun_one_chip_is_a_run_and_leaves_nothing(tmp_path):
    """Whatever it makes is in folders of its own, which are empty afterwards."""
    work, session, queues = tmp_path / "work", tmp_path / "session", tmp_path / "queues"
    for folder in (work, session, queues):
        folder.mkdir()
    places = {"TMPDIR": str(session), "OMPI_MCA_btl_sm_backing_directory": str(queues)}
    with subprocess.Popen(
        command(1, "--mesh", "1x1", "--max-new-tokens", "1", "--quiet")[3:],
        env=environment(**places),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=work,
    ) as job:
        mapped = set()
        while job.poll() is None:
            mapped |= shared_files([job.pid])
            time.sleep(0.05)
        assert job.returncode == 0, job.stderr.read()
    assert not [place for place in mapped if Path(place).exists()]
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_an_exception_inside_one_rank_ends_all_with_its_traceback():
    result = play(faulty(8, "raise", 5, "--mesh", "2x4", "--batch", "4"))
    assert result.returncode != 0
    assert "galaxy_mpi: rank 5 failed:" in result.stderr
    assert "RuntimeError: asked to fail" in result.stderr
    assert result.stderr.count("Traceback") == 1
    assert nobody_is_left()


def test_a_killed_rank_ends_the_run_and_leaves_nothing_in_shared_memory():
    job = subprocess.Popen(
        command(4, "--mesh", "2x2", "--quiet", "--max-new-tokens", "5000"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(still_running()) < 4:
        time.sleep(0.2)
    time.sleep(3)
    ranks = still_running()
    mapped = shared_files(ranks)
    os.kill(ranks[-1], signal.SIGKILL)
    assert job.wait(timeout=120) != 0
    assert nobody_is_left()
    assert not [place for place in mapped if Path(place).exists()]
