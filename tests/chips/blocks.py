"""The code blocks of a page of documentation, run in order.

A block whose first line is a comment with a file's name is written to that file, and so is one of
JSON behind a line that ends in the file's name and a colon; other blocks of Python are run. In all
others, lines that begin with ``$ galaxy-mpi`` are commands; the lines after a command must be its
output, where ``...`` stands for any number of lines; commands of other programs (mpirun, sh) are
left to other tests. The comment ``<!-- not run: REASON -->`` before a block leaves it out.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from galaxy_mpi.cli import SUBCOMMANDS
from galaxy_mpi.errors import EXIT_USER_ERROR

BLOCK = re.compile(
    r"^(?:[^\n]*`([\w/]+\.json)`:\n\n)?(<!-- not run: [^\n]+ -->\n+)?```(\w*)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"# ([\w/]+\.\w+)\n")
MODULES = {each.name: each.module for each in SUBCOMMANDS}


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    language: str
    text: str
    is_left_out: bool
    name: str = ""
    """Of the file that the line before it names."""

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of this project, with the lines below each."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
        return [(command, shown) for command, shown in found if command.startswith("galaxy-mpi ")]

    @property
    def is_run(self) -> bool:
        """Whether `play` runs something."""
        if self.is_left_out or "from mpi4py" in self.text:
            return False
        return bool(self.commands) or (self.language == "python" and not FILE.match(self.text))


def blocks_of(path: Path) -> list[Block]:
    """Return the blocks of a page."""
    found = BLOCK.findall(path.read_text("utf-8"))
    return [Block(language, text, bool(left_out), name) for name, left_out, language, text in found]


def play(blocks: list[Block], folder: Path, output: Callable[[], tuple[str, str]]) -> Iterator[str]:
    """Run the blocks of a page in the current folder, and yield what was run.

    Parameters
    ----------
    blocks : list of Block
    folder : Path
        Where files are written: the current folder.
    output : callable
        Returns what was printed since the last call, to standard output and to standard error.
    """
    for block in blocks:
        if block.is_left_out or "from mpi4py" in block.text:
            continue
        named = FILE.match(block.text)
        if block.name:
            (folder / block.name).write_text(block.text, "utf-8")
        elif named is not None:
            (folder / named[1]).write_text(block.text.partition("\n")[2], "utf-8")
        elif block.language == "python":
            output()
            exec(compile(block.text, "block", "exec"), {"__name__": "block"})
            assert output()[0].strip(), block.text
            yield block.text
        for command, shown in block.commands:
            _, *words = shlex.split(command.partition("  #")[0])
            output()
            code = import_module(MODULES[words[0]]).main(words[1:])
            # An error is a line on standard error; otherwise that has only progress.
            printed = output()[1 if code == EXIT_USER_ERROR else 0]
            check(shown, printed.splitlines(), f"{command} (exit code {code})")
            yield command


def check(shown: list[str], printed: list[str], command: str) -> None:
    """Assert that the lines shown are those printed, where ``...`` is any number of lines."""
    at, is_open = 0, False
    for line in shown:
        if line.strip() == "...":
            is_open = True
            continue
        left = printed[at:] if is_open else printed[at : at + 1]
        stripped = [text.rstrip() for text in left]
        assert line.rstrip() in stripped, f"{command} does not print {line!r}, but {left[:40]}"
        at, is_open = at + stripped.index(line.rstrip()) + 1, False
    if shown and shown[-1].strip() != "...":
        left = [text for text in printed[at:] if text.strip()]
        assert not left, f"{command} prints more: {left[:5]}"
