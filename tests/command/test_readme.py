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
