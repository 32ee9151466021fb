"""Real weights from a GGUF file: the tokens of two independent engines."""

import json
import subprocess

import pytest

from galaxy_mpi.checkpoints import fetched
from tests.command.decode_command import ROOT, run

pytestmark = pytest.mark.network

# llama.cpp and transformers (weights de-quantised to float32) agree on these, greedily.
PROMPT, PROMPT_IDS = "The capital of France is", [504, 3575, 282, 4649, 314]
EXPECTED = [7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33, 29, 34, 34]
EXPECTED += [216, 33, 34, 42, 33, 34, 42, 37, 35, 30, 2]


@pytest.fixture(scope="module")
def smollm2():
    if not fetched("smollm2").is_file():
        command = ["sh", str(ROOT / "launch" / "fetch_model.sh"), "smollm2"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if told.returncode:
            pytest.skip(f"SmolLM2 cannot be fetched: {told.stderr.strip()[-200:]}")


@pytest.mark.parametrize(
    ("ranks", "chips_per_rank", "mesh", "n_new"), [(3, 1, "1x3", 40), (2, 16, "8x4", 12)]
)
def test_float32_tokens_are_those_of_two_engines(
    smollm2, tmp_path, ranks, chips_per_rank, mesh, n_new
):
    path = tmp_path / "out.json"
    arguments = ["--model", "smollm2", "--mesh", mesh, "--max-new-tokens", str(n_new)]
    arguments += ["--precision", "float32", "--batch", "4", "--quiet", "--json", str(path)]
    arguments += ["--chips-per-rank", str(chips_per_rank)]
    result = run(ranks, *arguments, "--prompt", PROMPT)
    assert result.returncode == 0, result.stderr
    content = json.loads(path.read_text())
    assert content["tokens"] == [EXPECTED[:n_new]]
    assert content["prompt_tokens"] == [len(PROMPT_IDS)]
    if mesh == "8x4":
        assert content["padding"] == ["kv heads 3 -> 8, 2 of them zeros", "query heads 9 -> 16"]


def test_a_chat_is_answered_up_to_the_end_of_the_turn(smollm2, tmp_path):
    path = tmp_path / "out.json"
    arguments = ["--model", "smollm2", "--mesh", "1x3", "--max-new-tokens", "40", "--quiet"]
    arguments += ["--precision", "float32", "--batch", "3", "--json", str(path), "--chat"]
    result = run(3, *arguments, "--prompt", "What is the capital of France?")
    assert result.returncode == 0, result.stderr
    content = json.loads(path.read_text())
    assert content["prompt_tokens"][0] > 20  # the template has a system message
    assert "Paris" in content["text"][0]
    assert content["ended"] == ["end_of_text"]
