"""Prompts and tiny models that cases name as FOLDER/NAME; text, for the commands to read."""

import contextlib
import hashlib
import io
import json
import random
from pathlib import Path

from tests.families import FAMILIES, write_family

WORDS = """
the a old young great little house garden letter friend sister captain morning evening
walked said thought carried found lost to of and with in upon never always perhaps they
she he it was were had been very much quite truth family daughter London sea road
""".split()  # noqa: SIM905


def write_prompts(folder: Path) -> None:
    """Write the files of prompts, a prompt a line."""
    chance = random.Random(13)

    def text(n_words: int) -> str:
        return " ".join(chance.choice(WORDS) for _ in range(n_words))

    def numbers(n_tokens: int) -> str:
        return " ".join(str(chance.randrange(298)) for _ in range(n_tokens))

    beginning = text(330)
    files = {
        "few.txt": [text(n) for n in (1, 9, 30, 140)],
        # More than 16 short ones are prefilled side by side; more than 32 wait for a place.
        "short.txt": [text(chance.randrange(3, 20)) for _ in range(20)],
        "many.txt": [text(chance.randrange(2, 9)) for _ in range(37)],
        # Above 1,024 tokens the columns share the queries; above 4,096 rows come in slabs.
        "long.txt": [text(1150), text(5)],
        "longest.txt": [text(4200)],
        "shared.txt": [f"{beginning} {text(n)}" for n in (1, 2, 40, 3)],
        "numbers.txt": [numbers(n) for n in (1, 150, 129, 17, 33)],
    }
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))


def write_optimizations(folder: Path) -> None:
    """Write formats that differ from layer to layer."""
    layers = {
        "0": {"precision_cfg": {"ff1_3": "bfp8", "wqkv": "bf16"}},
        "2": {"precision_cfg": {"ff2": "bfp4"}, "fidelity_cfg": {"li_ff1_3": "hifi4"}},
    }
    (folder / "layers.json").write_text(json.dumps({"decoders": layers}))


def write_models(folder: Path) -> None:
    """Write a model of every family, with a tokenizer whose words are the tokens' numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    for name in FAMILIES:
        path = folder / name
        path.mkdir()
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
            write_family(name, path)
        size = json.loads((path / "config.json").read_text())["vocab_size"]
        vocabulary = {str(number): number for number in range(size)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(path / "tokenizer.json"))


def digest(model: Path) -> str:
    """Return a digest of a model's values: another one is another model, not another result."""
    from safetensors.numpy import load_file

    tensors = {}
    for path in model.glob("*.safetensors"):
        tensors |= load_file(path)
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].tobytes())
    return found.hexdigest()
