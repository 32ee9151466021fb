"""JSON Schemas of reports, made from reports: ``python -m tests.schemas`` writes docs/schemas/.

A schema has the keys and types of what some commands write. Objects whose keys are data (ops,
formats, axes) allow any key. The version is in the file's name and is that of the report.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from galaxy_mpi.systems.optimizations import TENSOR_GROUPS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "schemas"
FILES = {
    "text": ROOT / "benchmarks" / "prose.txt",
    "golden": ROOT / "galaxy_mpi" / "timing" / "published" / "timing.json",
}
"""Placeholders in commands; ``{folder}`` is a folder that is removed afterwards."""

SMALL = "--mesh 2x2 --chips-per-rank 4 --batch 2 --max-new-tokens 3 --quiet"
LOAD = "traffic --model demo --mesh 2x2 --requests 9 --rate 5"

TEXT = "--mesh 1x1 --chips-per-rank 1 --layers 1 --tokens 24 --text {text}"
PARETO = f"pareto --quiet {TEXT} " + " ".join(
    f"--try {group}=bfp8" for group in ("ff2", "wqkv", "wo", "kv_cache", "activation")
)
CAPTURE = f"decode {SMALL} --layers 1 --capture {{folder}}"
DIFF = "diff {folder}/a {folder}"

CASES = {
    "decode": (
        f"decode {SMALL}",
        f"decode {SMALL} --precision float32 --max-new-tokens 1",
        f"decode {SMALL} --slow-chip 1,0,9 --temperature 0.5 --top-k 5 --set machine.links=2",
        f"decode {SMALL} --no-prefetch --no-prefix-cache",
        f"decode {SMALL} --against accuracy",
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
    "validate": ("validate", "validate --golden {golden}"),
    "accuracy": (
        f"accuracy {TEXT} --prefill 24 --precision performance",
        f"accuracy {TEXT} --prefill 8 --precision performance,float32 --by-op",
    ),
    "pareto": (
        f"{PARETO} --try ff1_3=bfp8,bfp4",
        f"{PARETO} --try ff1_3=bfp8 --target top1>=0 --write {{folder}}/fast.json",
        f"{PARETO} --layers 2 --by-layer --try ff1_3=bfp8,bfp4",
    ),
    "diff": (
        f"{CAPTURE}/a && {CAPTURE}/b --precision accuracy && {DIFF}/b --pcc 1",
        f"{CAPTURE}/a && {CAPTURE}/b --formats logits=bf16 && {DIFF}/b --pcc 1",
        f"{CAPTURE}/a && {CAPTURE}/b --layers 2 && {DIFF}/b",
        f"{CAPTURE}/a && {DIFF}/a",
    ),
    "bench": ("bench --mesh 2x2 --chips-per-rank 4 --new-tokens 3 --turns 1",),
    "doctor": ("doctor --start 0",),
}
"""Commands by schema; together they reach every type of a key."""

ON_RANKS = {
    "ring_collectives": (
        "mpirun -n 4 {python} {root}/benchmarks/ring_collectives.py --mesh 2x2 --sizes 1K -n 1 "
        "--turns 1 --peers mpi",
    ),
}
"""The same for what is no subcommand and needs ranks."""

KEYED_BY_DATA = {
    "bound_by_op", "by_bound_s", "by_op_s", "collectives", "config", "constants", "decode",
    "link_bytes", "link_utilization", "machine", "machines", "memory", "padding", "prefill",
    "prefill_bound_by_op", "prefill_by_op_s", "sweep", "versions",
}  # fmt: skip
"""Objects with these names allow any key."""


NULL_WITHOUT_FILES = "checksums"
"""The object whose values are null for random weights, which are too large for these cases."""


_FINITE = {"type": ["null", "number"]}

SELDOM = {
    "published": {"type": ["array", "null"], "items": {"type": "integer"}},
    "largest": _FINITE,
    "relative": _FINITE,
    **{
        group: {"type": ["array", "string"], "items": {"type": "string"}} for group in TENSOR_GROUPS
    },
}
"""Schemas of keys that have another type in seldom cases: whole models, infinite errors, layers."""


def report_of(commands: str, folder: Path) -> dict[str, Any]:
    """Return what the last of some commands, joined with ``&&``, writes with ``--json``."""
    path, printed = folder / "report.json", io.StringIO()
    places = FILES | {"folder": folder, "python": sys.executable, "root": ROOT}
    for command in commands.format(**places).split(" && "):
        name, *words = command.split()
        if name == "mpirun":
            said = subprocess.run(
                [str(Path(sys.executable).parent / name), *words, "--json", str(path)],
                env=os.environ
                | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
                stdout=subprocess.PIPE,
                text=True,
                timeout=300,
                check=True,
            )
            printed.write(said.stdout)
            continue
        if name == "doctor":  # prints its JSON; the exit code is that of its findings
            with contextlib.redirect_stdout(io.StringIO()) as told:
                import_module("galaxy_mpi.doctor").main([*words, "--json"])
            path.write_text(told.getvalue())
            continue
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            code = import_module(f"galaxy_mpi.{name}").main([*words, "--json", str(path)])
        assert code == (name == "diff" and "/b" in commands), command
    assert not (wide := too_wide(printed.getvalue())), wide
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def too_wide(printed: str) -> list[str]:
    """Return the lines of a command that do not fit 80 columns, without texts and long paths."""
    return [
        line
        for line in printed.splitlines()
        if len(line) > 80 and not line.startswith("[user ") and max(map(len, line.split())) < 40
    ]


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
            inner = "machine" if name == "machines" else ""
            found["additionalProperties"] = schema_of(inside, inner) if inside else {}
        else:
            found["properties"] = {
                key: SELDOM.get(key)
                or schema_of([each[key] for each in objects if key in each], key)
                for key in keys
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
    reports = []
    for number, commands in enumerate((CASES | ON_RANKS)[name]):
        (folder / str(number)).mkdir()
        reports.append(report_of(commands, folder / str(number)))
    (version,) = {report["schema_version"] for report in reports}
    found = schema_of(reports)
    found["properties"]["schema_version"] = {"const": version}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{'' if name in ON_RANKS else 'galaxy-mpi '}{name}, version {version}",
    }
    return f"{name}-{version}.json", head | found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in sys.argv[1:] or CASES | ON_RANKS:
        with tempfile.TemporaryDirectory() as folder:
            file, made = schema(each, Path(folder))
        (FOLDER / file).write_text(json.dumps(made, indent=1) + "\n", "utf-8")
