"""JSON Schemas of reports, made from reports: ``python -m tests.schemas`` writes docs/schemas/.

A schema has the keys and types of what some commands write. Objects whose keys are data (ops,
formats, axes) allow any key. The version is in the file's name and is that of the report.
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"

SMALL = "--mesh 2x2 --chips-per-rank 4 --batch 2 --max-new-tokens 3 --quiet"
LOAD = "traffic --model demo --mesh 2x2 --requests 9 --rate 5"

CASES = {
    "decode": (
        f"decode {SMALL}",
        f"decode {SMALL} --precision float32 --max-new-tokens 1",
        f"decode {SMALL} --slow-chip 1,0,9 --temperature 0.5 --top-k 5 --set machine.links=2",
        f"decode {SMALL} --no-prefetch --no-prefix-cache",
    ),
    "estimate": (
        "estimate --model demo --mesh 2x2",
        "estimate --model demo --mesh 2x2 --slow-link 0,0,row,4 --links 2",
        "estimate --model demo --mesh 1x2 --system tt_transformers --machine n300",
    ),
    "estimate-sweep": ("estimate --model demo --mesh 2x2 --sweep links=1,2,4",),
    "compare": ("compare --model demo --mesh 2x2 --timing-only",),
    "traffic": (
        f"{LOAD} --slo-ttft-ms 100",
        "traffic --model demo --mesh 2x2 --requests 9 --concurrency 2",
    ),
    "traffic-sweep": ("traffic --model demo --mesh 2x2 --requests 9 --sweep rate=1,2",),
}
"""Commands by schema; together they reach every type of a key."""

KEYED_BY_DATA = {
    "bound_by_op", "by_bound_s", "by_op_s", "collectives", "config", "constants", "decode",
    "link_bytes", "link_utilization", "machine", "memory", "padding", "prefill",
    "prefill_bound_by_op", "prefill_by_op_s", "sweep", "versions",
}  # fmt: skip
"""Objects with these names allow any key."""


NULL_WITHOUT_FILES = "checksums"
"""The object whose values are null for random weights, which are too large for these cases."""


def report_of(command: str, folder: Path) -> dict[str, Any]:
    """Return what a command writes with ``--json``."""
    path = folder / "report.json"
    name, *words = command.split()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = import_module(f"galaxy_mpi.{name}").main([*words, "--json", str(path)])
    assert code == 0, command
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def schema_of(values: Iterable[Any], name: str = "") -> dict[str, Any]:
    """Return the schema that describes all values."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind(value), []).append(value)
    if "number" in kinds:
        kinds.pop("integer", None)
    found: dict[str, Any] = {"type": next(iter(kinds)) if len(kinds) == 1 else sorted(kinds)}
    if "array" in kinds:
        items = [item for value in kinds["array"] for item in value]
        if items:
            found["items"] = schema_of(items)
    if "object" in kinds:
        objects = kinds["object"]
        keys = sorted(set().union(*objects))
        if name in KEYED_BY_DATA:
            inside = [value for each in objects for value in each.values()]
            found["additionalProperties"] = schema_of(inside) if inside else {}
        else:
            found["properties"] = {
                key: schema_of([each[key] for each in objects if key in each], key) for key in keys
            }
            if name == NULL_WITHOUT_FILES:
                for one in found["properties"].values():
                    one["type"] = ["null", one["type"]]
            found["required"] = [key for key in keys if all(key in each for each in objects)]
    return found


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names[type(value)]


def schema(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the file's name and the schema of a kind of report."""
    reports = [report_of(command, folder) for command in CASES[name]]
    (version,) = {report["schema_version"] for report in reports}
    found = schema_of(reports)
    found["properties"]["schema_version"] = {"const": version}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"galaxy-mpi {name}, version {version}",
    }
    return f"{name}-{version}.json", head | found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in sys.argv[1:] or CASES:
        file, made = schema(each, FOLDER)
        (FOLDER / "report.json").unlink()
        (FOLDER / file).write_text(json.dumps(made, indent=1) + "\n", "utf-8")
