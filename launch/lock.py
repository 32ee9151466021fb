"""Choose the versions that the set-up installs, and write down the hash of every file of them.

    python launch/lock.py             keeps versions unless a requirement asks for another
    python launch/lock.py --upgrade   takes the newest of everything but torch

``constraints.txt`` gets one version of each package, or two where Python 3.10 needs an older one.
``locks/`` gets a file for the package itself, one for each extra (what it needs beyond that), and
one for pip and setuptools. They have the hashes of all files of a version, so they fit every Python
and architecture. This needs uv (extra ``dev``) and a package index.

torch is left out of ``locks/`` on purpose: with and without CUDA it is the same version in
different files, so its hash depends on the index of the site. Its version is in constraints.txt.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
OLDEST = "3.10"
UNDERSTOOD = ("python_full_version < '3.14'", "sys_platform == 'linux'")
"""What pyproject.toml says of all environments, so that no line has to repeat it."""
NOT_LOCKED = "torch"

HEAD = "# Made by launch/lock.py from pyproject.toml; do not edit.\n"


def entries(text: str) -> dict[str, str]:
    """Return the entries of a requirements file by their first line; hashes follow on others."""
    found = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    return {entry.splitlines()[0].rstrip(" \\"): entry for entry in found if "==" in entry}


def compiled(work: Path, name: str, *arguments: str, preferred: str = "") -> str:
    """Return requirements with their versions, for all Pythons; pyproject.toml says more of how.

    Parameters
    ----------
    work : Path
        A folder for ``name``.txt.
    name : str
    *arguments : str
        Of ``uv pip compile``: what is required.
    preferred : str
        Versions to keep where nothing speaks against them.
    """
    output = work / f"{name}.txt"
    output.write_text(preferred)
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--python-version", OLDEST, "--no-header", "--no-annotate"]
    subprocess.run([*command, "--output-file", str(output), *arguments], cwd=ROOT, check=True)
    text = output.read_text()
    for marker in UNDERSTOOD:
        text = text.replace(f"{marker} and ", "").replace(f" and {marker}", "")
        text = text.replace(f" ; {marker}", "")
    return text


def main() -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    is_upgrade = parser.parse_args().upgrade
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    constraints, locks = ROOT / "constraints.txt", ROOT / "locks"
    before = constraints.read_text()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tools, kept = work / "tools.in", work / "kept.in"
        tools.write_text("\n".join(["pip", *project["build-system"]["requires"]]) + "\n")
        kept.write_text("".join(e for k, e in entries(before).items() if k.startswith(NOT_LOCKED)))
        inputs = ["pyproject.toml", str(tools)]
        preferred = "" if is_upgrade else before
        inputs += ["--all-extras", "--constraint", str(kept)]
        every = compiled(work, "every", *inputs, preferred=preferred)
        constraints.write_text(HEAD + every)
        locked = ["--generate-hashes", "--no-emit-package", NOT_LOCKED]
        locked += ["--constraint", str(constraints)]
        base = entries(compiled(work, "base", "pyproject.toml", *locked))
        found = {"base": base, "tools": entries(compiled(work, "tools", str(tools), *locked))}
        for extra in extras:
            more = entries(compiled(work, extra, "pyproject.toml", "--extra", extra, *locked))
            found[extra] = {key: entry for key, entry in more.items() if key not in base}
    locks.mkdir(exist_ok=True)
    for old in locks.glob("*.txt"):
        old.unlink()
    for name, chosen in found.items():
        (locks / f"{name}.txt").write_text(HEAD + "".join(chosen.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
