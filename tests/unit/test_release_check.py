"""What a release needs: versions that agree, archives that hold everything."""

import importlib.util
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check():
    spec = importlib.util.spec_from_file_location(
        "release_check", ROOT / "launch" / "release_check.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(folder, *, version="1.2.3", cited="1.2.3", released="1.2.3", unreleased=""):
    (folder / "galaxy_mpi").mkdir()
    (folder / "galaxy_mpi" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (folder / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {cited}\n")
    (folder / "CHANGELOG.md").write_text(
        f"## [Unreleased]\n\n{unreleased}\n## [{released}] - 2026-01-01\n\n* x\n\n## [0.1.0]\n"
    )
    return folder


def test_this_checkout_agrees_with_itself(check):
    assert check.disagreements(ROOT, None) == []


def test_all_that_agree_are_no_line(check, tmp_path):
    assert check.disagreements(checkout(tmp_path), "v1.2.3") == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"cited": "1.2.2"}, "CITATION.cff is of 1.2.2"),
        ({"released": "1.2.2"}, "CHANGELOG.md is of 1.2.2"),
        ({"unreleased": "* something\n"}, "lines under Unreleased"),
    ],
)
def test_each_disagreement_is_a_line(check, tmp_path, what, said):
    (line,) = check.disagreements(checkout(tmp_path, **what), "v1.2.3")
    assert said in line


def test_a_tag_of_another_version_is_a_line(check, tmp_path):
    assert check.disagreements(checkout(tmp_path), "v1.2.4") == [
        "the tag is of 1.2.4, galaxy_mpi/__init__.py of 1.2.3"
    ]


def test_a_wheel_without_its_model_is_a_line(check, tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name in check.IN_ARCHIVE:
            archive.add(ROOT / name, f"x/{name}")
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        for name in (*check.IN_WHEEL, "galaxy_mpi/dtypes/_compiled.abi3.so"):
            if "model.safetensors" not in name:
                wheel.writestr(name, "")
    assert check.missing(tmp_path) == ["x.whl lacks galaxy_mpi/checkpoints/demo/model.safetensors"]
