"""Tiny random models of every family, written by transformers; no size divides anything."""

from pathlib import Path

FAMILIES = ("llama", "llama3-tied", "mistral", "qwen2", "qwen3")

_SIZES = {
    "vocab_size": 301,
    "hidden_size": 84,
    "intermediate_size": 131,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 300,
    "bos_token_id": 299,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "head_dim": 14,
}

_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def write_family(name: str, folder: Path) -> Path:
    """Write the model of a family in several files, with a tokenizer; return its folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    classes, changes = {
        "llama": ("Llama", {}),
        "llama3-tied": ("Llama", {"tie_word_embeddings": True, "rope_parameters": _ROPE}),
        "mistral": ("Mistral", {"sliding_window": 400}),
        "qwen2": ("Qwen2", {}),
        "qwen3": ("Qwen3", {"head_dim": 20}),
    }[name]
    torch.manual_seed(7)
    config = getattr(transformers, f"{classes}Config")(**(_SIZES | changes))
    model = getattr(transformers, f"{classes}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias") or "norm" in key:
                value.add_(torch.randn_like(value) * 0.3)
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    vocabulary = {chr(0x100 + n): n for n in range(_SIZES["vocab_size"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def random_prompts(n: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Return prompts of 1 to 150 tokens."""
    import random

    chance = random.Random(seed)
    lengths = [1, 150, 129, *(chance.randrange(2, 40) for _ in range(n - 3))]
    return tuple(
        tuple(chance.randrange(_SIZES["vocab_size"] - 2) for _ in range(k)) for k in lengths
    )
