"""The golden files: a case a line, floats as Python writes them, so the same bits come back."""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pins import cases, commands

FOLDER = Path(__file__).parents[1] / "golden"

Run = Callable[[str, commands.Inputs], dict[str, Any]]


@dataclass(frozen=True)
class Golden:
    """One file, the cases that belong in it and what runs one."""

    name: str
    cases: Sequence[str]
    run: Run

    def read(self) -> dict[str, Any]:
        """Return what is pinned, by case; nothing if there is no file."""
        path = FOLDER / self.name
        if not path.exists():
            return {}
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)

    def write(self, pinned: dict[str, Any]) -> None:
        """Write what is pinned, in the order of the table; what is in no table goes."""
        lines = [
            f"{json.dumps(case)}: {json.dumps(pinned[case], separators=(',', ':'))}"
            for case in self.cases
            if case in pinned
        ]
        content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
        path = FOLDER / self.name
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


FILES = (
    Golden("device.json", cases.DEVICE, commands.device),
    Golden("traces.json.gz", cases.TRACES, commands.trace),
    Golden("comparisons.json", cases.COMPARISONS, commands.comparison),
    Golden("logits.json", cases.LOGITS, commands.logits),
    Golden("tokens_quick.json", cases.TOKENS_QUICK, commands.tokens),
    Golden("tokens_slow.json", cases.TOKENS_SLOW, commands.tokens),
)


def check(golden: Golden, case: str, inputs: commands.Inputs) -> None:
    """Run a case.

    Raises
    ------
    AssertionError
        If it is not what is pinned; the message names what differs first.
    """
    pinned = golden.read()
    if case not in pinned:
        raise AssertionError(f"{case}: not in {golden.name}; python -m tests.pins --update")
    found = list(differences(pinned[case], golden.run(case, inputs)))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise AssertionError(f"{case}: {found[0]}{more}")


def differences(pinned: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each place where two trees of JSON differ, in the order of the first.

    Numbers are compared by what Python writes of them: to the last bit, and 0 is not 0.0. The
    order of keys counts too, because the same command is to write the same bytes.
    """
    if isinstance(pinned, dict) and isinstance(found, dict):
        before = path and f"{path}."
        for key, value in pinned.items():
            if key in found:
                yield from differences(value, found[key], f"{before}{key}")
            else:
                yield f"{before}{key}: gone, was {_short(value)}"
        for key in found:
            if key not in pinned:
                yield f"{before}{key}: new, {_short(found[key])}"
        if list(pinned) != list(found) and set(pinned) == set(found):
            yield f"{path or 'report'}: the same keys in another order, {_short(list(found))}"
    elif isinstance(pinned, list) and isinstance(found, list):
        for number, (one, other) in enumerate(zip(pinned, found, strict=False)):
            yield from differences(one, other, f"{path}[{number}]")
        if len(pinned) != len(found):
            yield f"{path}: {len(found)} entries, were {len(pinned)}"
    elif repr(pinned) != repr(found):
        yield f"{path or 'report'}: {_short(found)}, was {_short(pinned)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
