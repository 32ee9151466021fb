"""Files of tokenizers that cut, fill up, panic or explode."""

import json

import pytest

from galaxy_mpi.checkpoints import locate
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer, check_prompts
from galaxy_mpi.errors import CheckpointError, ConfigError

TEXT = "It was impossible for her to say what she felt, and so she said nothing at all."


@pytest.fixture(name="write")
def _write(tmp_path):
    good = json.loads((locate("demo") / "tokenizer.json").read_text("utf-8"))

    def write(**changes):
        (tmp_path / "tokenizer.json").write_text(json.dumps(good | changes), "utf-8")
        return tmp_path

    return write


def padding(strategy):
    return {
        "strategy": strategy,
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|end_of_text|>",
    }


TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": TRUNCATION},
        {"truncation": TRUNCATION | {"stride": 9}},  # panics when it is obeyed
        {"padding": padding({"Fixed": 40})},
        {"padding": padding({"Fixed": 2**32})},  # 17 GB when it is obeyed
    ],
)
def test_prompts_are_neither_cut_nor_filled_up(write, changes):
    whole = TextTokenizer.of_folder(locate("demo")).encode(TEXT, 1)
    assert TextTokenizer.of_folder(write(**changes)).encode(TEXT, 1) == whole


def test_transformers_reads_the_same_tokens(write):
    transformers = pytest.importorskip("transformers")
    folder = write(truncation=TRUNCATION, padding=padding({"Fixed": 40}))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert TextTokenizer.of_folder(folder).encode(TEXT, 1) == theirs(TEXT).input_ids


def test_a_regex_that_never_ends_is_an_error_of_the_checkpoint(write):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    tokenizer = TextTokenizer.of_folder(write(pre_tokenizer=split | {"invert": False}))
    with pytest.raises(
        CheckpointError, match="cannot tokenize the prompt of user 1: Onig.*retry-limit"
    ):
        tokenizer.encode("a" * 60 + "!", 1)


def test_a_processor_that_panics_is_found_when_the_file_is_read(write):
    piece = {"SpecialToken": {"id": "nobody", "type_id": 0}}
    processor = {"type": "TemplateProcessing", "single": [piece], "pair": [], "special_tokens": {}}
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        TextTokenizer.of_folder(write(post_processor=processor))


def test_replacements_that_explode_and_giant_numbers_are_refused(write):
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    steps = {"type": "Sequence", "normalizers": [step] * 9}
    with pytest.raises(CheckpointError, match="normalizer can make a text 1000000000 times"):
        TextTokenizer.of_folder(write(normalizer=steps))
    strip = {"type": "Strip", "content": " ", "start": 2**60, "stop": 0}
    with pytest.raises(CheckpointError, match="decoder has the number 1152921504606846976"):
        TextTokenizer.of_folder(write(decoder=strip))


def test_random_merges_are_refused(write):
    good = json.loads((locate("demo") / "tokenizer.json").read_text("utf-8"))
    with pytest.raises(CheckpointError, match=r"dropout is 0\.1, which makes tokens random"):
        TextTokenizer.of_folder(write(model=good["model"] | {"dropout": 0.1}))


def test_prompts_that_can_never_fit_are_not_tokenized():
    check_prompts(["a" * 128 * 512], 512)
    with pytest.raises(ConfigError, match="the prompt of user 1 has 50000000 characters"):
        check_prompts(["a", "a" * 50_000_000], 8192)
    with pytest.raises(ConfigError, match="the prompt of user 0 is not UTF-8"):
        check_prompts(["\udcff"], 512)
