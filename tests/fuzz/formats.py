"""What is damaged, and what reads it then."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.prompts import Prompts
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.serving.trace_file import read_trace
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems.optimizations import read_optimizations
from galaxy_mpi.systems.settings import DEFAULT
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.published import CALIBRATION, read_measurements
from tests.fuzz.arguments import damaged_words, play_words
from tests.fuzz.format import Format
from tests.fuzz.model_formats import (
    config_format,
    generation_format,
    gguf_format,
    index_format,
    model_folder,
    params_format,
    safetensors_format,
    shard_cache_format,
    tokenizer_config_format,
    tokenizer_json_format,
)
from tests.fuzz.mutate import damaged_bytes, damaged_json, damaged_yaml


def _optimizations(folder: Path) -> Format:
    folder.mkdir()
    path = folder / "formats.json"
    entry = {"precision_cfg": {"ff1_3": "bfp4", "WQKV": "BF16"}, "fidelity_cfg": {"li_ff2": "lofi"}}
    good = json.dumps({"decoders": {"0": entry, "default": entry}}).encode()

    def play(content: bytes) -> None:
        path.write_bytes(content)
        assert len(read_optimizations(path, 4, DEFAULT)) == 4

    return Format(good, damaged_json, play)


def _machine(folder: Path) -> Format:
    folder.mkdir()
    path, n_played = folder / "machine.yaml", 0
    base = Path(sys.modules[Machine.__module__].__file__ or "").parent / "machines"
    good = (base / "wormhole_galaxy_6u.yaml").read_bytes()

    def play(content: bytes) -> None:
        nonlocal n_played
        path.write_bytes(content)
        Machine.load(str(path))
        n_played += 1
        if n_played % 20 == 1:
            _ = WhatIf(machine=str(path), layers=1, new_tokens=1, allow_over_budget=True).report

    return Format(good, damaged_yaml, play)


def _golden(folder: Path) -> Format:
    folder.mkdir()
    path = folder / "golden.json"

    def play(content: bytes) -> None:
        path.write_bytes(content)
        read_measurements(path)

    return Format(CALIBRATION.read_bytes(), damaged_json, play)


def _template(folder: Path) -> Format:
    good = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[{{ m.content | trim }}]"
        "{% else %}{{ raise_exception('no ' ~ m.role) }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' * 3 }}{% endif %}"
    )

    def play(content: bytes) -> None:
        ChatTemplate(content.decode("utf-8", "replace"), {"bos_token": "<s>"}).apply("Hi")

    return Format(good.encode(), damaged_bytes, play, limit_s=60.0)


def _prompts(folder: Path) -> Format:
    folder.mkdir()
    path = folder / "prompts.txt"
    run = RunConfig(prompts_file=path, mesh=Mesh(1, 1))

    def play(content: bytes) -> None:
        path.write_bytes(content)
        Prompts.read(run, [])

    return Format("It was\nThe sea — and\nShe\n".encode(), damaged_bytes, play)


def _trace(folder: Path) -> Format:
    folder.mkdir()
    path = folder / "trace"
    columns = "arrival_s,input_tokens,output_tokens,prefix,prefix_tokens,cancel_s"
    rows = ["0,812,230,chat,384,", "0.31,655,91,chat,384,", '0.5,9,9,"a, b",8,1e-3', "2,1,1,,,"]
    good = "\n".join([columns, *rows, ""]).encode()

    def play(content: bytes) -> None:
        path.write_bytes(content)
        for arrival in read_trace(path):
            assert 0 <= arrival.at_s < math.inf
            assert 0 <= arrival.size.prefix_tokens <= arrival.size.input_tokens

    return Format(good, damaged_bytes, play)


def _trace_lines(folder: Path) -> Format:
    of_csv = _trace(folder)
    line = {"arrival_s": 0.25, "input_tokens": 70, "output_tokens": 3, "prefix": "chat"}
    good = json.dumps(line | {"prefix_tokens": 64, "cancel_s": 2}).encode()
    return Format(good, damaged_json, of_csv.play)


def arguments_format(folder: Path) -> Format:
    model = model_folder(folder)
    return Format(b"", damaged_words, lambda content: play_words(content, model))


FORMATS: dict[str, Callable[[Path], Format]] = {
    "safetensors": safetensors_format,
    "gguf": gguf_format,
    "index": index_format,
    "config": config_format,
    "generation_config": generation_format,
    "tokenizer_config": tokenizer_config_format,
    "tokenizer": tokenizer_json_format,
    "params": params_format,
    "optimizations": _optimizations,
    "machine": _machine,
    "golden": _golden,
    "template": _template,
    "prompts": _prompts,
    "trace": _trace,
    "trace_lines": _trace_lines,
    "shard_cache": shard_cache_format,
    "arguments": arguments_format,
}
"""By name; each is made in a folder of its own."""
