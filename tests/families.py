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


def write_meta(hugging_face: Path, folder: Path, n_files: int = 2) -> Path:
    """Write a Llama of Hugging Face in Meta's form, cut over files; return its folder."""
    import json
    import shutil

    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(hugging_face, dtype=torch.float32)
    c, state = model.config, model.state_dict()
    short = {
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "tok_embeddings",
        "lm_head": "output",
        "model.": "",
    }
    files: list[dict] = [{} for _ in range(n_files)]
    for name, tensor in state.items():
        if "q_proj" in name or "k_proj" in name:  # Meta has the values of a pair side by side
            halves = tensor.reshape(-1, 2, c.head_dim // 2, tensor.shape[1])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        for theirs, metas in short.items():
            name = name.replace(theirs, metas)
        axis = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
        parts = [tensor] * n_files if tensor.ndim == 1 else tensor.tensor_split(n_files, axis)
        for file, part in zip(files, parts, strict=True):
            file[name] = part.clone()
    folder.mkdir()
    for number, file in enumerate(files):
        torch.save(file, folder / f"consolidated.{number:02}.pth")
    params = {
        "dim": c.hidden_size,
        "n_layers": c.num_hidden_layers,
        "n_heads": c.num_attention_heads,
        "n_kv_heads": c.num_key_value_heads,
        "vocab_size": c.vocab_size,
        "norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope_parameters["rope_theta"],
    }
    (folder / "params.json").write_text(json.dumps(params))
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(hugging_face / name, folder)
    return folder
