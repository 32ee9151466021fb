"""The independent reference: Hugging Face transformers on the CPU in float32."""

from functools import lru_cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)


@lru_cache(maxsize=4)
def _model(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def greedy_tokens(folder: Path, prompts: list[list[int]], n_new: int) -> list[list[int]]:
    """Return each prompt's greedy continuation, one prompt at a time, without padding."""
    model = _model(folder)
    eos = model.generation_config.eos_token_id
    eos = set(eos if isinstance(eos, list) else [eos])
    out = []
    for prompt in prompts:
        ids, cache, tokens = torch.tensor([prompt]), None, []
        for _ in range(n_new):
            answer = model(ids, past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            tokens.append(int(answer.logits[0, -1].argmax()))
            ids = torch.tensor([[tokens[-1]]])
            if tokens[-1] in eos:
                break
        out.append(tokens)
    return out
