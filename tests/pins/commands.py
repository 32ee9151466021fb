"""How a case is run. Only through the commands: what is behind them may change.

`run_decode` is the one function that knows how a mesh of chips is played in one process.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from galaxy_mpi import compare, estimate
from tests.command import decode_command
from tests.pins.inputs import digest, write_models, write_optimizations, write_prompts

KEPT = ("users", "tokens", "ended", "prompt_tokens", "cached_tokens", "padding", "device")
"""Of the report of a decode run: what is a result, and neither of the host nor its memory."""


def run_decode(words: Sequence[str]) -> dict[str, Any]:
    """Return what ``python -m galaxy_mpi.decode WORDS --json FILE`` writes.

    All chips are in this process.
    """
    from galaxy_mpi import decode

    mesh = words[words.index("--mesh") + 1] if "--mesh" in words else "8x4"
    rows, cols = map(int, mesh.split("x"))
    return _json_of(decode.main, [*words, "--chips-per-rank", str(rows * cols)])


def run_logits(
    options: dict[str, Any], prompts: Sequence[Sequence[int]], steps: Sequence[Sequence[int]]
) -> list[Any]:
    """Return the logits of `galaxy_mpi.generator` behind the prompts and behind each step.

    All chips are in this process.
    """
    from galaxy_mpi.generator import Generator, create_model

    with Generator(create_model(**options)) as generator:
        found = [generator.prefill_forward(prompts).copy()]
        positions = [len(prompt) for prompt in prompts]
        for step in steps:
            inputs = generator.prepare_decode_inputs(step, positions)
            found.append(generator.decode_forward(*inputs).copy())
            positions = [position + 1 for position in positions]
        return found


def run_decode_on_ranks(words: Sequence[str]) -> dict[str, Any]:
    """Return the same from mpirun, a rank a chip."""
    mesh = words[words.index("--mesh") + 1]
    rows, cols = map(int, mesh.split("x"))
    lines = {name: os.environ[name] for name in ("LINE_RS", "LINE_AG") if name in os.environ}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.json")
        ended = decode_command.run(rows * cols, *words, "--json", str(path), **lines)
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {ended.returncode}: {ended.stderr}")
        return json.loads(path.read_text())


class Inputs:
    """The folder that cases name as FOLDER, its models written when first asked for.

    Parameters
    ----------
    folder : Path
        An empty one.
    play : callable
        Runs the decode command: `run_decode` or `run_decode_on_ranks`.
    """

    def __init__(
        self, folder: Path, play: Callable[[Sequence[str]], dict[str, Any]] = run_decode
    ) -> None:
        self.play = play
        self._folder = folder
        self._has_models = False
        write_prompts(folder)
        write_optimizations(folder)

    def words(self, case: str) -> tuple[dict[str, str], list[str]]:
        """Return the environment and the words of a case's command line."""
        environ, words = {}, []
        for word in case.split():
            name, equals, value = word.partition("=")
            if not words and equals and name.isupper():
                environ[name] = value
            else:
                words.append(word.replace("FOLDER", str(self._folder)))
        return environ, words

    def model_digest(self, case: str) -> str | None:
        """Return the digest of the tiny model of a case, which is written if need be."""
        model = next((w for w in _values(case, "--model") if w.startswith("FOLDER/")), None)
        if model is None:
            return None
        if not self._has_models:
            write_models(self._folder)
            self._has_models = True
        return digest(self._folder / model.removeprefix("FOLDER/"))


def tokens(case: str, inputs: Inputs) -> dict[str, Any]:
    """Return the result of a decode run."""
    found: dict[str, Any] = {}
    model = inputs.model_digest(case)
    if model is not None:
        found["model_sha256"] = model
    environ, words = inputs.words(case)
    with mock.patch.dict(os.environ, environ):
        report = inputs.play([*words, "--weights-cache", "off", "--quiet"])
    return found | {name: report[name] for name in KEPT}


def logits(case: str, inputs: Inputs) -> dict[str, Any]:
    """Return digests of all logits, and the first of them, of given tokens: three users.

    Tokens hide most changes of values; these do not.
    """
    found: dict[str, Any] = {}
    model = inputs.model_digest(case)
    if model is not None:
        found["model_sha256"] = model
    _, words = inputs.words(case)
    options: dict[str, Any] = {"max_batch_size": 4, "max_seq_len": 256}
    for name, value in zip(words[::2], words[1::2], strict=True):
        name = name.removeprefix("--").replace("-", "_")
        options[name] = int(value) if value.isdigit() else value
    longest = options["max_seq_len"] - 100
    prompts = [
        [(7 * at * at + length) % 290 for at in range(length)] for length in (1, 40, longest)
    ]
    behind = run_logits(options, prompts, [[11, 5, 200], [3, 250, 8], [90, 91, 92]])
    for number, values_BV in enumerate(behind):
        name = f"step {number}" if number else "prefill"
        for user in range(len(prompts)):
            values = np.asarray(values_BV[user], np.float32) + np.float32(0)  # no -0
            found[f"{name}, user {user}"] = {
                "first": values[:3].tolist(),
                "sha256": hashlib.sha256(values.tobytes()).hexdigest()[:16],
            }
    return found


def device(case: str, inputs: Inputs) -> dict[str, Any]:
    """Return the device time and memory of an estimate."""
    report = _json_of(estimate.main, inputs.words(case)[1])
    return {name: report[name] for name in ("device", "memory")}


def trace(case: str, inputs: Inputs) -> dict[str, Any]:
    """Return the trace and the op report of an estimate."""
    with tempfile.TemporaryDirectory() as folder:
        events, ops = Path(folder, "trace.json"), Path(folder, "ops.csv")
        files = ["--trace", str(events), "--profile-csv", str(ops)]
        _json_of(estimate.main, [*inputs.words(case)[1], *files])
        rows = list(csv.reader(io.StringIO(ops.read_text())))
        return {"trace": json.loads(events.read_text()), "op_report": rows}


def comparison(case: str, inputs: Inputs) -> dict[str, Any]:
    """Return the rows of a comparison in device time."""
    return {"rows": _json_of(compare.main, ["--timing-only", *inputs.words(case)[1]])["rows"]}


def _values(case: str, option: str) -> list[str]:
    words = case.split()
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def _json_of(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> Any:
    """Return what a command writes with --json; it runs in this process."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.json")
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([*words, "--json", str(path)])
        if code != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {code}: {said.getvalue()}")
        return json.loads(path.read_text())
