"""Prompts of exact lengths, in the words of the demo model."""

from functools import lru_cache

from galaxy_mpi.checkpoints import default_prompts, locate
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer

LENGTHS = (1, 127, 128, 129, 1025, 2048, 4097)
"""On both sides of every change of the prefill path."""


@lru_cache(maxsize=1)
def default_ids() -> list[list[int]]:
    tokenizer = TextTokenizer.of_folder(locate("demo"))
    return [tokenizer.encode(prompt, number) for number, prompt in enumerate(default_prompts())]


def prompt_of(n_tokens: int, seed: int = 0) -> tuple[int, ...]:
    """Return begin-of-text and words of the default prompts; another seed, another order."""
    sentences = [ids[1:] for ids in default_ids()]
    words = [0]
    turn = seed
    while len(words) < n_tokens:
        words += sentences[(turn * 7 + turn // 32 + seed) % len(sentences)]
        turn += 1
    return tuple(words[:n_tokens])
