"""Device time under changes: what must never be faster, never be slower, or be refused."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mpi import estimate
from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems import PRECISIONS, PassShape, system_of
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.machine import read_constants

PLACES = (
    ("galaxy", "wormhole_galaxy_6u", "8x4"),
    ("tt_transformers", "wormhole_galaxy_6u", "8x4"),
    ("tt_transformers", "t3000", "1x8"),
    ("tt_transformers", "n300", "1x2"),
    ("tt_transformers", "n150", "1x1"),
)
MODELS = ("llama3.2-1b", "llama3-8b", "llama3-70b", "qwen3-8b", "qwen2.5-7b")
FORMATS = (BFP4, BFP8, BF16)

places, models = st.sampled_from(PLACES), st.sampled_from(MODELS)
lengths = st.integers(1, 40_000)
PLAIN = PRECISIONS["performance"]


def estimator_of(place, model, *, users=32, precision=PLAIN, **changes):
    system, machine, mesh = place
    sizes, on = replace(PRESETS[model], n_layers=2), Mesh.parse(mesh)
    programs = Programs(sizes, on, system_of(system, on), precision, users=users)
    return Estimator(programs, replace(Machine.load(machine), **changes))


def step_s(place, model, position=200, **changes):
    estimator = estimator_of(place, model, **changes)
    return estimator.step([position] * estimator.programs.mesh.cols).seconds


def pass_s(place, model, n_tokens, **changes):
    return estimator_of(place, model, **changes).prefill(PassShape.of_prompt(n_tokens)).seconds


def at_most(a, b):
    """Return whether ``a`` is no longer than ``b``, but for the last bits of sums."""
    return a <= b * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(places, models, st.integers(1, 31), lengths)
def test_a_step_of_more_users_is_never_faster(place, model, users, position):
    few, more = (step_s(place, model, position, users=n) for n in (users, users + 1))
    assert at_most(few, more)


@settings(max_examples=40, deadline=None)
@given(places, models, st.integers(1, 32), lengths, st.integers(1, 2000))
def test_a_step_of_longer_contexts_is_never_faster(place, model, users, position, more):
    estimator = estimator_of(place, model, users=users)
    cols = estimator.programs.mesh.cols
    near, far = (estimator.step([p] * cols).seconds for p in (position, position + more))
    assert at_most(near, far)


@settings(max_examples=25, deadline=None)
@given(places, models, lengths, st.integers(1, 5000))
def test_a_longer_prompt_is_never_faster(place, model, n_tokens, more):
    assert at_most(pass_s(place, model, n_tokens), pass_s(place, model, n_tokens + more))


RATES = (
    "link_bytes_per_s",
    "dram_bytes_per_s",
    "streamed_bytes_per_s",
    "prefill_weight_bytes_per_s",
    "vector_elements_per_core_s",
    "hifi2_flops_per_core_s",
    "attention_bytes_per_core_s",
    "chunk_read_bytes_per_s",
    "generic_link_bytes_per_s",
    "links",
    "worker_cores",
    "prefill_cores",
    "attention_cores",
    "generic_cores",
)


@settings(max_examples=60, deadline=None)
@given(places, models, st.sampled_from(RATES), st.integers(2, 4), st.sampled_from([100, 3000]))
def test_more_of_anything_is_never_slower(place, model, name, times, n_tokens):
    value = getattr(Machine.load(place[1]), name)
    for seconds in (step_s, pass_s):
        plain, more = (
            seconds(place, model, n_tokens, **{name: value * n}) for n in (1, times)
        )  # fmt: skip
        assert at_most(more, plain), seconds


@pytest.mark.parametrize("n_tokens", [100, 5000])
def test_more_ring_cores_are_never_slower(n_tokens):
    """24, 28, 32, ... cores: each has whole tiles, so some more help nothing."""
    place = PLACES[0]
    times = [step_s(place, "llama3-70b", n_tokens, ring_cores=n) for n in range(12, 73)]
    assert all(at_most(b, a) for a, b in pairwise(times))


@settings(max_examples=30, deadline=None)
@given(
    places,
    st.sampled_from(MODELS),
    st.sampled_from(
        ["query_key_value_weight", "output_weight", "gate_up_weight", "down_weight", "kv_cache"]
    ),
    st.sampled_from([150, 9000]),
)
def test_smaller_formats_are_never_slower(place, model, kind, position):
    times = [
        step_s(place, model, position, precision=replace(PLAIN, **{kind: dtype}))
        for dtype in FORMATS
    ]
    assert at_most(times[0], times[1])
    assert at_most(times[1], times[2])


def test_formats_of_caches_and_the_fidelity_of_attention_matter():
    place, times = PLACES[0], []
    for dtype in FORMATS:
        times.append(step_s(place, "llama3-70b", 8000, precision=replace(PLAIN, kv_cache=dtype)))
    assert times[0] < times[1] < times[2]
    fast = replace(PLAIN, fidelities=(("sdpa_prefill", Fidelity.LOFI),))
    for place in (PLACES[0], PLACES[4]):
        assert pass_s(place, "llama3-8b", 16_384, precision=fast) < pass_s(
            place, "llama3-8b", 16_384
        )


@pytest.mark.parametrize("model", MODELS)
def test_the_prefetcher_never_makes_a_model_slower(model):
    system, machine, mesh = PLACES[0]
    sizes, on = replace(PRESETS[model], n_layers=2), Mesh.parse(mesh)
    emulated = system_of(system, on)
    with_it, without = (
        Estimator(
            Programs(sizes, on, emulated, PLAIN, users=32, prefetch=on_), Machine.load(machine)
        ).step([200] * 4)
        for on_ in (True, False)
    )
    assert at_most(with_it.seconds, without.seconds)


def test_reads_of_caches_keep_the_prefetcher_from_dram():
    """With slow DRAM a long context makes the prefetcher late by what the caches take."""
    place, slow = PLACES[0], {"dram_bytes_per_s": 6e10}
    near, far = (
        estimator_of(place, "llama3-70b", **slow).step([position] * 4) for position in (200, 3000)
    )
    assert far.seconds > near.seconds
    assert far.dram_bytes > near.dram_bytes


@pytest.mark.parametrize("option", [("--links", ("1", "2", "4")), ("--topology", ("line", "ring"))])
def test_links_and_topology_matter_to_the_generic_system_on_the_galaxy(option, capsys):
    name, values = option
    arguments = ["--system", "tt_transformers", "--layers", "2", "--new-tokens", "1"]
    times = []
    for value in values:
        assert estimate.main([*arguments, name, value, "--json", "-"]) == 0
        times.append(json.loads(capsys.readouterr().out)["device"]["decode_step_s"])
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == len(times)


@pytest.mark.parametrize("machine", ["n150", "n300", "t3000"])
def test_a_machine_without_the_galaxys_system_takes_the_generic_one(machine):
    what_if = WhatIf(machine=machine, model="llama3.2-1b", layers=2)
    assert what_if.report["system"] == "tt_transformers"
    assert WhatIf(layers=2).report["system"] == "galaxy"


def test_a_point_that_does_not_fit_is_a_row_that_says_so(tmp_path, capsys):
    path = tmp_path / "rows.json"
    arguments = ["--sweep", "input-tokens=128,131072", "--new-tokens", "1", "--json", str(path)]
    assert estimate.main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].split() == ["131072", *"-------"]
    said = "24,096 MiB of DRAM (weights and embedding 2,326, KV cache 21,771) and has 12,288; 59968"
    assert f"131072: a chip needs {said} positions" in " ".join(map(str.strip, shown[3:]))
    assert max(map(len, shown)) <= 80
    rows = json.loads(path.read_text())["rows"]
    assert [row["not_estimated"] == "" for row in rows] == [True, False]
    assert rows[1]["decode_step_s"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "smollm2-135m", "--input-tokens", "8193"], "supports 8192 positions"),
        (["--circular-buffer-bytes", "1000"], "must hold two weights"),
        (["--sampling", "gpu"], "--sampling is host or device, got 'gpu'"),
        (["--lengths", "1,two"], "--lengths is a list of N or NxM"),
        (["--cached-percent", "100"], "--cached-percent"),
        (["--lengths", "128x33"], "the number of --lengths must be 1 to 32, got 33"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said, capsys):
    assert estimate.main([*arguments, "--layers", "2"]) == 2
    assert said in capsys.readouterr().err


def report_of(**changes):
    return WhatIf(layers=2, new_tokens=2, **changes).report["device"]


def test_options_of_served_tables():
    long = {"input_tokens": 16_384, "users": 4}
    plain = report_of(input_tokens=4096)
    hits = [report_of(**long, cached_percent=n) for n in (50, 75, 90)]
    first = [report_of(**long), *hits]
    times = [figures["time_to_first_token_s"] for figures in first]
    assert times == sorted(times, reverse=True)
    mixed = report_of(lengths=(128, 4096, 128, 128))
    assert mixed["decode_step_s"] <= plain["decode_step_s"]
    assert report_of(input_tokens=128)["decode_step_s"] < mixed["decode_step_s"]
    one = {"machine": "n150", "model": "llama3.2-1b", "users": 1}
    assert report_of(**one, sampling="device")["decode_step_s"] < report_of(**one)["decode_step_s"]


def test_a_long_prompt_of_the_generic_system_goes_chunk_by_chunk():
    """Llama-3.1-8B on one chip: 4,096 tokens at once; each chunk sees all before it."""
    one = {"machine": "n150", "model": "llama3-8b", "users": 1}
    times = [report_of(**one, input_tokens=n)["time_to_first_token_s"] for n in (4096, 8192, 12288)]
    second, third = times[1] - times[0], times[2] - times[1]
    assert third > second > 0.9 * times[0]


def test_figures_come_with_bands_and_what_they_wait_for():
    for changes, regime in (
        ({}, "calibrated"),
        ({"input_tokens": 2000}, "interpolated"),
        ({"machine": "blackhole_galaxy"}, "extrapolated"),
    ):
        figures = WhatIf(new_tokens=1, **changes).report["device"]
        for name in ("decode_step_s", "time_to_first_token_s"):
            low, high = figures[f"{name}_band"]
            assert low < figures[name] < high
            assert figures[f"{name}_regime"] == regime
    assert set(figures["bound_by_op"]) == set(figures["by_op_s"])
    assert figures["bound_by_op"]["lm_head_matmul"] == "DRAM"
    assert 0 < figures["dram_utilization"] < 1
    assert 0 < figures["flops_utilization"] < 1
    assert all(0 < share < 1 for share in figures["link_utilization"].values())


def test_bands_depend_on_constants_however_they_are_set(tmp_path):
    def regime(text, **changes):
        path = tmp_path / "machine.yaml"
        path.write_text(text)
        return WhatIf(machine=str(path), **changes).conditions.regime("step")

    def constants(**values):
        unit = {name: read_constants("wormhole_galaxy_6u")[name].unit for name in values}
        rows = (
            f"  {k}: {{value: {v}, unit: {unit[k]}, source: a test}}" for k, v in values.items()
        )
        return "\n".join([*extended, "constants:", *rows]) + "\n"

    extended = ("name: mine", "extends: wormhole_galaxy_6u")
    slow, same = "machine.dram_bytes_per_s=1.25e11", "machine.links=4"
    assert WhatIf(constants=(same,)).conditions.regime("step") == "calibrated"
    assert WhatIf(constants=(slow,)).conditions.regime("step") == "interpolated"
    assert regime("\n".join([*extended, "constants: {}\n"])) == "calibrated"
    assert regime(constants(dram_bytes_per_s=1.25e11)) == "interpolated"
    # Another clock changes what all cores do.
    assert regime(constants(clock_hz=1.35e9)) == "extrapolated"
    assert WhatIf(formats="decode.wo_sum=bf16").conditions.regime("step") == "interpolated"
