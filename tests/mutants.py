"""Mutation testing: one small change of the source at a time, and whether a test fails.

    python -m tests.mutants galaxy_mpi/timing/costs.py -- tests/unit/test_timing.py -k "not pins"

What follows ``--`` goes to pytest. It prints the mutants that no test noticed, with their line, and
how many were. Each runs in a fork of a process that has imported pytest but nothing of the package.
"""

import ast
import copy
import importlib
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis  # noqa: F401  once, for all forks
import numpy as np  # noqa: F401
import pytest

LIMIT_S = 300
"""A mutant that takes longer has been noticed."""

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield line, what is changed, and the changed module."""
    tree = ast.parse(source)
    names = {id(part) for part in ast.walk(tree) for part in _of_names(part)}
    for place, node in enumerate(ast.walk(tree)):
        for change in _changes(node) if id(node) not in names else ():
            mutant = copy.deepcopy(tree)
            before = ast.unparse(node)
            after = _changed(list(ast.walk(mutant))[place], change)
            yield node.lineno, f"{before}  ->  {after}", ast.fix_missing_locations(mutant)


def _of_names(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below annotations, which no run looks at."""
    for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if part is not None:
            yield from ast.walk(part)


def _changes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield "operator"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "comparison"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "constant"
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("min", "max"):
        yield "extreme"
    if isinstance(node, ast.IfExp):
        yield "branches"
    if isinstance(node, ast.Dict) and len(node.keys) > 1:
        for place in range(len(node.keys)):
            yield f"entry {place}"


def _changed(node: ast.AST, change: str) -> str:
    """Change a node in place; return it as source."""
    if isinstance(node, ast.BinOp):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value += 1
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        node.func.id = "max" if node.func.id == "min" else "min"
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    elif isinstance(node, ast.Dict):
        place = int(change.split()[1])
        del node.keys[place], node.values[place]
    return ast.unparse(node)


class Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from a tree in place of its file."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        super().__init__(name, str(path))
        self._tree = tree

    def get_code(self, fullname):
        return compile(self._tree, self.path, "exec")

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)


def is_noticed(path: Path, tree: ast.Module, arguments: Sequence[str]) -> bool:
    """Return whether a test fails with ``tree`` in place of a file."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        name = ".".join(path.with_suffix("").parts)
        sys.meta_path.insert(0, Mutated(name, path.resolve(), tree))
        code = 1
        try:
            importlib.import_module(name)  # before pytest puts its own finder in front
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments])
        finally:
            os._exit(int(code))
    return os.waitpid(child, 0)[1] != 0


def main(words: Sequence[str]) -> int:
    paths, arguments = words[: words.index("--")], words[words.index("--") + 1 :]
    for path in map(Path, paths):
        if is_noticed(path, ast.parse(path.read_text()), arguments):
            print(f"{path}: the tests fail without any change", flush=True)
            return 2
        n_noticed = n_all = 0
        for line, change, tree in mutants(path.read_text()):
            n_all += 1
            if is_noticed(path, tree, arguments):
                n_noticed += 1
            else:
                print(f"{path}:{line}: {change}", flush=True)
        print(f"{path}: {n_noticed} of {n_all} mutants noticed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
