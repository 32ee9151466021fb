"""The commands of the README, as they stand, where they need no 32 ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """Return the commands under "Change one thing", without their comments."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## Change one thing")[2]
    block = section.partition("```\n")[2].partition("```")[0]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def test_the_change_that_breaks_tokens_is_found_as_the_readme_shows(tmp_path):
    """The session below the commands, in a shell; texts and summaries in between are left out."""
    section = (ROOT / "README.md").read_text("utf-8").partition("A change that breaks tokens")[2]
    lines = section.partition("```\n")[2].partition("```")[0].splitlines()
    script = "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    shown = [line for line in lines if not line.startswith("$ ")]
    ended = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    printed = iter(ended.stdout.splitlines())
    assert len(shown) > 5
    for line in shown:
        assert line in printed, f"not printed, or not after the lines before it: {line}"


def test_there_are_commands():
    assert len(commands()) > 5


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command, tmp_path):
    program, *words = command.split()
    assert program == "galaxy-mpi"
    if words[0] == "decode":
        words += ["--max-new-tokens", "2", "--batch", "4"]
    ended = subprocess.run(
        [Path(sys.executable).parent / program, *words],
        cwd=tmp_path,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) > 3
    assert "Traceback" not in ended.stderr
