"""The library, with all chips in one process: texts, hooks, device time."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi import Generator, create_model
from galaxy_mpi.errors import ConfigError, ValuesError
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems.ops.reduce import FusedReduce
from tests.chips.changes import RUN, play, with_decode

SMALL = {"mesh": "2x2", "n_layers": 2, "max_batch_size": 4, "max_seq_len": 128}
PROMPTS = [list(prompt) for prompt in RUN.prompt_tokens]


def test_importing_the_package_loads_neither_numpy_nor_mpi():
    code = "import sys, galaxy_mpi; print(sorted({'numpy', 'mpi4py'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    code = "import sys; from galaxy_mpi import create_model; print('mpi4py' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_generate_gives_the_tokens_of_a_run():
    model = create_model(optimizations="float32", **SMALL)
    with Generator(model) as generator:
        found = generator.generate(PROMPTS, max_new_tokens=RUN.max_new_tokens)
        (text,) = generator.generate(["It is a truth"], max_new_tokens=2)
        with pytest.raises(ConfigError, match="5 prompts for 4 users"):
            generator.generate([[1]] * 5)
        assert generator.device_times() is None
    report = play(RUN)
    assert [list(one.tokens) for one in found] == report.tokens
    assert [one.text for one in found] == report.text
    assert text.text == model.decode(text.tokens)


def test_device_time_is_that_of_the_ops_that_ran():
    with Generator(create_model(**SMALL)) as generator:
        generator.prefill_forward(PROMPTS[2:])
        inputs = generator.prepare_decode_inputs([1] * 4, [40] * 4)
        generator.decode_forward(*inputs)
        times = generator.device_times()
    assert times["steps"] == 1
    what_if = WhatIf(
        model="demo", mesh="2x2", layers=2, users=4, input_tokens=40, new_tokens=1
    ).report["device"]
    assert times["time_to_first_token_s"] < what_if["time_to_first_token_s"]
    # The choice of a token is the caller's.
    assert not {"sampling", "top_k", "plus_one_gap"} & set(times["by_op_s"])
    shared = set(times["by_op_s"]) & set(what_if["by_op_s"])
    assert "rms_norm_mlp" in shared
    for name in ("rms_norm_mlp", "w2_matmul", "all_reduce_w2"):
        assert times["by_op_s"][name] == pytest.approx(what_if["by_op_s"][name], rel=1e-9)
    slow = create_model(**SMALL, constants=["machine.links=1"])
    with Generator(slow) as generator:
        generator.decode_forward(*inputs)
        assert generator.device_times()["decode_step_s"] > times["decode_step_s"]


def test_hooks_see_every_op_and_layer_and_may_change_them():
    seen, layers = [], []

    def on_op(name, layer, chip, values):
        seen.append((name, layer, chip, {key: array.shape for key, array in values.items()}))

    def on_layer(layer, chip, stream):
        layers.append((layer, chip, stream.shape))

    model = create_model(optimizations="float32", **SMALL)
    with Generator(model, on_op=on_op, on_layer=on_layer) as generator:
        plain = generator.prefill_forward([PROMPTS[0]])
    assert ("wo", 1, (1, 0), {"out": (32, 128)}) in seen
    assert layers == [
        (layer, (row, col), (32, 128)) for layer in (0, 1) for row in (0, 1) for col in (0, 1)
    ]

    def zero(name, layer, chip, values):
        if (name, layer) == ("attention", 0):
            values["mixed"].fill(0)

    with Generator(model, on_op=zero) as generator:
        assert np.abs(generator.prefill_forward([PROMPTS[0]]) - plain).max() > 0.1


def test_a_system_of_ones_own_is_run_and_checked():
    class Off(FusedReduce):
        def bind(self, chip, x, weight):
            out = super().bind(chip, x, weight)
            if chip.row == 1:
                chip.call(np.multiply, out, np.float32(2), out)
            return out

    system = with_decode(down=Off)
    with Generator(create_model(system=system, **SMALL)) as generator:
        step = generator.prepare_decode_inputs([1], [0])
        generator.decode_forward(*step)
    with (
        pytest.raises(ValuesError, match=r"op w2 of layer 0: its output out .*all rows"),
        Generator(create_model(system=system, check=True, **SMALL)) as generator,
    ):
        generator.decode_forward(*step)
    assert replace(RUN, system=system).system_name == "changed"
