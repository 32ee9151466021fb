"""Two systems beside each other, and the ideas between them."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from galaxy_mpi import compare
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.comparison import device_figures, rows_of, table, to_dict
from galaxy_mpi.studies.ideas import CLAIMS, IDEAS, Claim, variants
from galaxy_mpi.systems import PRECISIONS, Wanted, system_of
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator

MACHINE, MESH = Machine.load("wormhole_galaxy_6u"), Mesh(8, 4)
ROW = Mesh(1, 8)
MODEL, PRECISION = PRESETS["llama3-8b"], PRECISIONS["performance"]


def test_the_galaxy_is_the_generic_system_with_some_ops_replaced():
    galaxy, other = system_of("galaxy", MESH), system_of("tt_transformers", MESH)
    changed = []
    for mode in ("decode", "prefill"):
        ops, plain = getattr(galaxy, mode), getattr(other, mode)
        for name, make in vars(ops).items():
            if make is not getattr(plain, name):
                changed.append(name)
                # The same place in the program, with other charges or messages.
                assert issubclass(make, getattr(plain, name)), name
    assert changed == [
        *("add_norm", "qkv_heads", "norm_heads", "rotate", "update_cache", "attention"),
        *("merge_heads", "output", "gate_up", "down", "logits", "sample"),
        *("attention", "down", "sample"),
    ]


def test_the_generic_system_does_not_import_the_galaxy():
    code = """
import sys
package = type(sys)("galaxy_mpi.systems")  # without the catalogue, which knows both
import galaxy_mpi
package.__path__ = [galaxy_mpi.__path__[0] + "/systems"]
sys.modules["galaxy_mpi.systems"] = package
import galaxy_mpi.systems.tt_transformers
print([name for name in sys.modules if name.startswith("galaxy_mpi.systems.galaxy")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_ideas_end_at_the_galaxy_to_the_bit():
    found = variants(MESH)
    device = device_figures(found, MODEL, MACHINE, MESH, Wanted(), users=32, position=200)

    def step(system, formats):
        precision = Wanted().on(system_of(formats, MESH), MODEL)
        programs = Programs(MODEL, MESH, system_of(system, MESH), precision, users=32)
        return Estimator(programs, MACHINE).step([200] * 4)

    # The first as it is; then all in the Galaxy's formats, and only there are ideas compared.
    assert device[0][0] == step("tt_transformers", "tt_transformers")
    assert device[1][0] == step("tt_transformers", "galaxy") != device[0][0]
    last = 1 + len(IDEAS)
    assert device[last][0] == step("galaxy", "galaxy")
    assert device[last][1] == 0 < device[0][1] == 9 * MODEL.n_layers + 3
    rows = rows_of(found, device, None)
    assert [row.is_alone for row in rows] == [False] * (1 + last) + [True] * len(IDEAS)
    assert [row.name for row in rows[:2]] == ["tt_transformers", "formats of the Galaxy"]
    product = 1.0
    for row in rows[2 : 1 + last]:
        product *= row.device_gain
    assert product == pytest.approx(device[1][0].seconds / device[last][0].seconds)
    for number in range(len(IDEAS)):  # every one of them makes the device faster, by itself
        assert device[last + 1 + number][0].seconds < device[1][0].seconds
    text = table(rows, MODEL, found)
    assert (
        "decode, bfloat16 -> bfloat8_b: last_sum, attention_norm, mlp_norm, final_norm"
        in " ".join(text.split())
    )
    for idea in IDEAS:
        assert f"+ {idea.name}" in text
    assert "claimed" not in text  # of another model
    claimed = table(rows, replace(MODEL, dim=8192, n_layers=80, n_heads=64), found)
    assert all(claim.text in claimed for claim in CLAIMS.values())
    assert len(to_dict(rows)) == len(rows)


def test_a_claim_is_met_anywhere_in_its_range():
    claim = Claim("20-30 %", 1.2, 1.3)
    assert claim.factor(1.25) == 1
    assert claim.factor(1.1) == pytest.approx(0.5)
    assert claim.factor(1.6) == pytest.approx(2)


def test_compare_writes_rows_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("rows.json", "rows.csv", "rows.png")]
    words = ["--timing-only", "--model", "demo", "--layers", "2", "--mesh", "2x2"]
    for option, path in zip(("--json", "--csv", "--plot"), files, strict=True):
        words += [option, str(path)]
    assert compare.main(words) == 0
    rows = json.loads(files[0].read_text())["rows"]
    assert len(rows) == 2 + 2 * len(IDEAS) == len(files[1].read_text().splitlines()) - 1
    assert files[2].read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "KiB sent allocations" in out
    sent = (rows[0]["link_bytes_column"] + rows[0]["link_bytes_row"]) / 2**10
    assert out.splitlines()[1].split()[-2] == f"{sent:.1f}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mesh", "1x8"], "several rows and columns, got 1x8"),
        (["--precision", "float32"], "--precision: no 'float32' on the device"),
        (["--precision", "accuracy", "--optimizations", "accuracy"], "not both"),
        (["--users", "0"], "--users must be 1 to 32"),
    ],
)
def test_compare_says_in_one_line_what_cannot_be(words, says, capsys):
    assert compare.main(["--timing-only", "--model", "llama3-8b", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_row_of_chips_keeps_the_stream_scattered():
    for mesh in (Mesh(1, 8), Mesh(8, 1), Mesh(1, 1)):
        system = system_of("tt_transformers", mesh)
        assert system.is_scattered
        programs = Programs(MODEL, mesh, system, PRECISION, users=32)
        assert programs.shape.stream == MODEL.dim // mesh.n_chips
        assert programs.shape.dim == MODEL.dim
        ops = Estimator(programs, MACHINE).step([100]).by_op_s
        assert ("reduce_scatter_wo" in ops) == (mesh.n_chips > 1)
        assert not any(name.startswith("sum_") for name in ops)
    with pytest.raises(ConfigError, match="no system 'gpu'; choose galaxy, tt_transformers"):
        system_of("gpu", MESH)
