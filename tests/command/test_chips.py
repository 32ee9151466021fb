"""Several chips in a process, collectives by name, checks and formats, as users start them."""

import json
import os
import subprocess

import pytest

from tests.command.decode_command import LIMIT_S, command, environment, refused, run

FEW = ("--max-new-tokens", "3", "--batch", "8", "--quiet")


def found(path):
    """Return what must be the same however chips are dealt out."""
    report = json.loads(path.read_text())
    return {name: report[name] for name in ("tokens", "text", "ended", "device", "mesh")}


def run_alone(*arguments, cwd=None):
    """Run the command without mpirun."""
    return subprocess.run(
        command(1, *arguments)[3:],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the 32 chips of the default mesh give in one process."""
    folder = tmp_path_factory.mktemp("alone")
    result = run_alone(*FEW, "--chips-per-rank", "32", "--json", "out.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return found(folder / "out.json")


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, ("--chips-per-rank", "16")),
        (4, ("--chips-per-rank", "8", "--transport", "mpi", "--check")),
    ],
)
def test_chips_may_be_dealt_out_over_any_number_of_ranks(alone, tmp_path, ranks, options):
    path = tmp_path / "out.json"
    result = run(ranks, *FEW, *options, "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert found(path) == alone


def test_one_process_needs_no_mpi():
    """Not even its library: a rank's first use of it would be seen here."""
    code = (
        "import sys; from galaxy_mpi import decode\n"
        "code = decode.main('--mesh 1x2 --chips-per-rank 2 --max-new-tokens 1 --batch 2 --quiet'"
        ".split())\n"
        "assert code == 0 and 'mpi4py.MPI' not in sys.modules\n"
    )
    result = subprocess.run(
        ["python", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("number", ["0", "3", "8"])
def test_what_does_not_divide_says_what_does(number):
    said = "--chips-per-rank can be 1, 2, 4"
    refused(run(2, "--mesh", "2x2", "--chips-per-rank", number), said)


def test_collectives_are_chosen_by_name(tmp_path):
    arguments = ("--mesh", "2x2", "--precision", "float32", *FEW[:4])
    tokens = []
    for name in ("direct", "ring", "line"):
        path = tmp_path / f"{name}.json"
        result = run_alone(
            *arguments, "--chips-per-rank", "4", "--collectives", name, "--json", str(path)
        )
        assert result.returncode == 0, result.stderr
        tokens.append(json.loads(path.read_text())["tokens"])
    assert tokens[0] == tokens[1] == tokens[2]
    refused(
        run(2, "--mesh", "1x2", "--collectives", "star"),
        "choose direct, ring, line",
    )


def test_a_check_changes_nothing_but_time(tmp_path):
    paths = [tmp_path / "plain.json", tmp_path / "check.json"]
    for path, options in zip(paths, ((), ("--check",)), strict=True):
        result = run(4, "--mesh", "2x2", *FEW, *options, "--json", str(path))
        assert result.returncode == 0, result.stderr
    assert found(paths[0]) == found(paths[1])


def test_the_format_of_activations_shows_in_device_time_and_link_bytes(tmp_path):
    seconds, link_bytes = set(), set()
    for name in ("bf16", "bfp8", "bfp4"):
        formats, path = tmp_path / f"{name}.json", tmp_path / f"{name}-out.json"
        entry = {"default": {"precision_cfg": {"activation": name}}}
        formats.write_text(json.dumps({"decoders": entry}))
        result = run_alone(
            *("--mesh", "2x2", "--chips-per-rank", "4", *FEW),
            *("--optimizations", str(formats), "--json", str(path)),
        )
        assert result.returncode == 0, result.stderr
        device = json.loads(path.read_text())["device"]
        seconds.add(device["decode_step_s"])
        link_bytes.add(json.dumps(device["link_bytes"]))
    assert len(seconds) == len(link_bytes) == 3


def test_the_program_of_a_step_is_printed():
    result = subprocess.run(
        ["python", "-m", "galaxy_mpi.program", "--model", "demo", "--mesh", "2x2"],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for word in ("GATE_UP", "reduce_scatter", "layer 0"):
        assert word in result.stdout
