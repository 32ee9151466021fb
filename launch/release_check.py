"""Whether a release can be made: version, changelog and citation agree, the archive has all of it.

python launch/release_check.py [TAG]      before the build: what the files say
python launch/release_check.py --dist DIR    after it: what the archive and the wheel hold
"""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

IN_WHEEL = (
    "galaxy_mpi/cli/main.py",
    "galaxy_mpi/py.typed",
    "galaxy_mpi/checkpoints/demo/model.safetensors",
    "galaxy_mpi/timing/machines/wormhole_galaxy_6u.yaml",
)
IN_ARCHIVE = ("galaxy_mpi/dtypes/_compiled.c", "launch/setup.sh", "locks/base.txt", "CHANGELOG.md")


def disagreements(root: Path, tag: str | None) -> list[str]:
    """Return what the files of a checkout say against each other."""

    def found(name: str, pattern: str) -> str:
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        return match[1] if match else "none"

    version = found("galaxy_mpi/__init__.py", r'^__version__ = "(.+)"$')
    said = {
        "CITATION.cff": found("CITATION.cff", r"^version: (.+)$"),
        "the newest release in CHANGELOG.md": found("CHANGELOG.md", r"^## \[(\d.*?)\]"),
    }
    if tag is not None:
        said["the tag"] = tag.removeprefix("v")
    wrong = [
        f"{name} is of {other}, galaxy_mpi/__init__.py of {version}"
        for name, other in said.items()
        if other != version
    ]
    unreleased = found("CHANGELOG.md", r"(?s)^## \[Unreleased\]\n(.*?)^## ")
    if tag is not None and re.search(r"^[*-] ", unreleased, re.MULTILINE):
        wrong.append("CHANGELOG.md has lines under Unreleased; give them this release's heading")
    return wrong


def missing(folder: Path) -> list[str]:
    """Return what the built archive and wheels lack."""
    wrong = []
    archives, wheels = sorted(folder.glob("*.tar.gz")), sorted(folder.glob("*.whl"))
    if not archives or not wheels:
        return [f"{folder} lacks a source archive or a wheel"]
    for archive in archives:
        with tarfile.open(archive) as file:
            names = {name.partition("/")[2] for name in file.getnames()}
        wrong += [f"{archive.name} lacks {name}" for name in IN_ARCHIVE if name not in names]
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            names = set(file.namelist())
        wrong += [f"{wheel.name} lacks {name}" for name in IN_WHEEL if name not in names]
        if not any(name.startswith("galaxy_mpi/dtypes/_compiled") for name in names):
            wrong.append(f"{wheel.name} lacks the compiled codec")
        if any(name.startswith("tests/") for name in names):
            wrong.append(f"{wheel.name} has the tests")
    return wrong


def main(words: list[str]) -> int:
    """Print what is wrong; return 1 if anything is."""
    if words[:1] == ["--dist"]:
        wrong = missing(Path(words[1]))
    else:
        wrong = disagreements(ROOT, words[0] if words and words[0] else None)
    for line in wrong:
        print(f"release check: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
