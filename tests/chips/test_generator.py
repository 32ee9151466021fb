"""The library for callers in Python, with parts of their own."""

import json
import re

import numpy as np
import pytest

from galaxy_mpi.errors import ConfigError, MeshError, UserError
from galaxy_mpi.generator import Generator, create_model
from galaxy_mpi.kernels import RotaryTable, attention_decode
from galaxy_mpi.script_input import named_for_scripts
from galaxy_mpi.systems import Attention, RMSNorm
from tests.conftest import what_lives
from tests.families import FAMILIES, random_prompts, write_family
from tests.reference import greedy_tokens


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write_family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def on_chips(play, mesh="2x2", system="tt_transformers", **options):
    """Return what ``play(generator)`` returns; without a communicator all chips are here."""
    model = create_model(mesh=mesh, system=system, **({"max_seq_len": 128} | options))
    with Generator(model) as generator:
        return play(generator)


def greedy(generator, prompts, n_new):
    logits = generator.prefill_forward(prompts)
    positions = np.array([len(prompt) for prompt in prompts])
    found = []
    for _ in range(n_new):
        tokens = logits.argmax(axis=1)[: len(prompts)]
        found.append(tokens)
        logits = generator.decode_forward(*generator.prepare_decode_inputs(tokens, positions))
        positions = positions + 1
    return np.stack(found, axis=1).tolist()


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("mesh", ["1x1", "1x2", "2x2"])
def test_its_tokens_are_those_of_transformers(folders, mesh, system):
    prompts, folder = random_prompts(3), folders["qwen3"]
    found = on_chips(
        lambda generator: greedy(generator, prompts, 5),
        mesh,
        system,
        model=str(folder),
        optimizations="float32",
        max_batch_size=4,
        max_seq_len=256,
    )
    expected = greedy_tokens(folder, [list(prompt) for prompt in prompts], 5)
    for tokens, right in zip(found, expected, strict=True):
        assert tokens[: len(right)] == right  # transformers stops at the end of a text


def test_users_keep_their_places_and_modes_are_switched_when_need_be():
    def play(generator):
        alone = generator.prefill_forward([[5, 6, 7]], users=[3])
        modes = [generator.mode]
        step = generator.prepare_decode_inputs([0, 0, 0, 9], [-1, -1, -1, 3])
        first = generator.decode_forward(*step)[3].copy()
        modes.append(generator.mode)
        again = generator.prefill_forward([[1, 2], [5, 6, 7]], users=[0, 3])
        second = generator.decode_forward(
            *generator.prepare_decode_inputs([4, 0, 0, 9], [2, -1, -1, 3])
        )
        generator.switch_mode("decode")
        return np.array_equal(alone[0], again[1]), np.array_equal(first, second[3]), modes

    prefill, decode, modes = on_chips(play, max_batch_size=4)
    assert prefill
    assert decode
    assert modes == ["prefill", "decode"]


def test_switching_modes_many_times_leaves_as_much_as_before():
    """Programs of both modes are kept; nothing is made by a switch."""

    def play(generator):
        counts = []
        for turn in range(300):
            generator.prefill_forward([[5, 6, 7 + turn % 3]])
            generator.decode_forward(*generator.prepare_decode_inputs([9], [3]))
            if turn % 100 == 99:
                counts.append(what_lives())
        return counts

    first, *others = on_chips(play, "1x2", max_batch_size=2, n_layers=1)
    assert others == [first] * 2


def test_bad_calls_say_what_would_be_right():
    def play(generator):
        said = []
        for call in (
            lambda: generator.switch_mode("train"),
            lambda: generator.prefill_forward([[]]),
            lambda: generator.prefill_forward([[1] * 200]),
            lambda: generator.prefill_forward([[1]], users=[7]),
            lambda: generator.prefill_forward([[1]], users=[0, 1]),
            lambda: generator.prepare_decode_inputs([1] * 5, [0] * 5),
            lambda: generator.prepare_decode_inputs([1], [128]),
            lambda: generator.prepare_decode_inputs([1], [-2]),
            lambda: generator.prepare_decode_inputs([2048], [0]),
            lambda: generator.prefill_forward([[0, -1]]),
            lambda: generator.prefill_forward([[1.5]]),
            lambda: generator.generate("It is"),
            lambda: generator.generate(["It is"], max_new_tokens=0),
        ):
            with pytest.raises(ConfigError) as caught:
                call()
            said.append(str(caught.value))
        return said, generator.prefill_forward([]).shape

    said, shape = on_chips(play, "1x1", max_batch_size=4)
    for line, part in zip(
        said,
        (
            "choose prefill, decode",
            "has 0 tokens; 1 to 128",
            "has 200 tokens",
            "user 7 is outside 0 to 3",
            "1 prompts, but 2 users",
            "at most 4 users",
            "position 128 is beyond the last, 127",
            "position -2; give -1 to a user that sits out",
            "token 2048 is not in the vocabulary; its tokens are 0 to 2047",
            "token -1 is not in the vocabulary; its tokens are 0 to 2047",
            "token 1.5 is not in the vocabulary",
            "prompts is one text; give a list: ['It is']",
            "max_new_tokens must be at least 1, got 0",
        ),
        strict=True,
    ):
        assert part in line
    assert shape[0] == 0
    with pytest.raises(MeshError, match=r"a mesh is written ROWSxCOLUMNS.*got '\(2, 2\)'"):
        create_model(mesh=(2, 2))
    for name in ("attention_class", "norm_class", "rope_class"):
        with pytest.raises(ConfigError, match=f"{name} is <class 'int'>, not a subclass of"):
            create_model(**{name: int})
    for wrong in (0, 10**9):
        with pytest.raises(ConfigError, match=f"^max_seq_len must be 1 to 1048576, got {wrong}$"):
            create_model(max_seq_len=wrong)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_batch_size": 33}, "max_batch_size is at most 32 users, got 33"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, got 0"),
        ({"n_layers": 9}, "n_layers=9: the model in .* has 4 layers; ask for as many or fewer"),
        ({"model": "nowhere"}, "no model folder at 'nowhere': model takes a Hugging Face folder"),
        ({"optimizations": "nowhere.json"}, "optimizations nowhere.json: No such file"),
        ({"constants": ["machine.links=0"]}, "constants machine.links needs a number above 0"),
        ({"machine": "n150"}, "Take up to 1 chips, optimizations float32"),
    ],
)
def test_errors_name_the_arguments_of_a_script_not_options(given, said):
    with pytest.raises(UserError, match=said) as caught:
        create_model(**{"mesh": "2x2", **given})
    assert "--" not in str(caught.value)


def test_a_suggested_option_is_written_as_an_argument():
    for told, wanted in (
        ("pass --mesh 2x1 or --chips-per-rank 4", 'pass mesh="2x1" or chips_per_rank=4'),
        ("srun with --mpi", "srun with --mpi"),
        ("run with --check to find", "run with check=True to find"),
    ):
        with pytest.raises(MeshError, match=f"^{re.escape(wanted)}$"), named_for_scripts():
            raise MeshError(told)


class WindowAttention(Attention):
    """Sees the last W positions only, as Mistral's sliding window does."""

    W = 8

    def decode(self, q_BNH, k_BKTH, v_BKTH, positions_B):
        out = np.empty_like(q_BNH)
        for user, position in enumerate(positions_B):
            seen = slice(max(0, position + 1 - self.W), position + 1)
            k, v = k_BKTH[user : user + 1, :, seen], v_BKTH[user : user + 1, :, seen]
            last = np.array([k.shape[2] - 1])
            out[user] = attention_decode(q_BNH[user : user + 1], k, v, last)[0]
        return out

    def prefill(self, q_SNH, k_KTH, v_KTH, *, start):
        out = np.empty_like(q_SNH)
        for row in range(len(q_SNH)):
            seen = slice(max(0, start + row + 1 - self.W), start + row + 1)
            k, v = k_KTH[None, :, seen], v_KTH[None, :, seen]
            last = np.array([k.shape[2] - 1])
            out[row] = attention_decode(q_SNH[row : row + 1], k, v, last)[0]
        return out


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("mesh", ["1x2", "2x2"])
def test_a_window_as_attention_class_is_transformers_sliding_window(tmp_path, mesh, system):
    """Mistral with a window of 8, against transformers, which has that window."""
    folder = write_family("mistral", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    prompts = [list(prompt) for prompt in random_prompts(3)]
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 8}))
    expected = greedy_tokens(folder, prompts, 5)
    wide = tmp_path / "wide"
    wide.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (wide / path.name).write_bytes(path.read_bytes())
    (wide / "config.json").write_text(json.dumps(config | {"sliding_window": None}))
    assert greedy_tokens(wide, prompts, 5) != expected
    found = on_chips(
        lambda generator: greedy(generator, prompts, 5),
        mesh,
        system,
        model=str(wide),
        optimizations="float32",
        max_batch_size=4,
        max_seq_len=256,
        attention_class=WindowAttention,
    )
    for tokens, right in zip(found, expected, strict=True):
        assert tokens[: len(right)] == right


def test_rope_and_norm_classes_take_their_places():
    class Unrotated(RotaryTable):
        def at(self, positions):
            cos, sin = super().at(positions)
            return np.ones_like(cos), np.zeros_like(sin)

    class Halved(RMSNorm):
        def normalise(self, x_BD, total_B, gain_D):
            return super().normalise(x_BD, total_B, gain_D) * np.float32(0.5)

    def logits(**classes):
        def play(generator):
            forward = generator.prefill_forward([[5, 6, 7], [7, 6, 5]])
            step = generator.prepare_decode_inputs([1, 1], [3, 3])
            return forward, generator.decode_forward(*step)[:2]

        return on_chips(play, optimizations="float32", max_batch_size=4, **classes)

    plain = logits()
    for classes in ({"rope_class": Unrotated}, {"norm_class": Halved}):
        for ours, theirs in zip(plain, logits(**classes), strict=True):
            assert np.abs(ours - theirs).max() > 0.1
    # The very same classes by another name change nothing.
    subclass = type("Same", (Attention,), {})
    for ours, theirs in zip(plain, logits(attention_class=subclass), strict=True):
        assert np.array_equal(ours, theirs)
