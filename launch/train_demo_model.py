"""Train the model that ships with galaxy_mpi: a small Llama on Jane Austen's novels.

Recipe
------
1. Text: the six novels (public domain) as packed by the Debian package
   ``r-cran-janeaustenr`` 1.0.0 (from Project Gutenberg). Fetch and unpack it with
   ``apt-get download r-cran-janeaustenr && dpkg-deb -x r-cran-janeaustenr_*.deb DIR``.
2. Hard-wrapped lines are joined to paragraphs, ``_emphasis_`` marks are dropped, chapters become
   documents. The last 4 % of the characters of each novel are held out and seen by nothing here,
   neither the tokenizer nor the model.
3. Tokenizer: byte-level BPE of 2,048 tokens, two of them special.
4. Model: ``LlamaForCausalLM`` with the sizes of ``CONFIG``, tied embedding, dropout after every
   sub-layer, AdamW, one cosine cycle, bfloat16 autocast, weights averaged over the last steps.

Writes ``config.json``, ``model.safetensors`` (bfloat16), ``tokenizer.json``,
``generation_config.json`` and ``training.json`` (the figures the model card quotes). Needs the
extra ``train``; run as::

    python launch/train_demo_model.py DIR galaxy_mpi/checkpoints/demo
"""

import argparse
import json
import math
import re
import struct
import time
import zlib
from pathlib import Path

import rdata
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
HELD_OUT = 0.04
CONFIG = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def read_novels(package_dir: Path) -> dict[str, str]:
    """Return the text of each novel from R's lazy-load database (``Rdata.rdx``, ``Rdata.rdb``)."""
    data = next(package_dir.rglob("janeaustenr/data"))
    index = rdata.parser.parse_data(
        zlib.decompress((data / "Rdata.rdx").read_bytes(), 47), extension=".rds"
    )
    store = (data / "Rdata.rdb").read_bytes()
    novels = {}
    for name, (offset, length) in rdata.conversion.convert(index)["variables"].items():
        blob = store[offset : offset + length]
        raw = zlib.decompress(blob[4:])
        assert len(raw) == struct.unpack(">I", blob[:4])[0]
        lines = rdata.conversion.convert(rdata.parser.parse_data(raw, extension=".rds"))
        novels[str(name)] = "\n".join(str(line) for line in lines)
    return novels


def chapters_of(novel: str) -> list[str]:
    """Split a novel into chapters of unwrapped paragraphs."""
    paragraphs = [re.sub(r"\s+", " ", p).strip() for p in re.split(r"\n\s*\n", novel)]
    chapters: list[list[str]] = [[]]
    for paragraph in paragraphs:
        paragraph = paragraph.replace("_", "")
        if re.match(r"(?i)(chapter|volume) ", paragraph) and len(paragraph) < 40:
            chapters.append([])
        elif paragraph and not paragraph.isupper():
            chapters[-1].append(paragraph)
    return ["\n".join(c) for c in chapters if sum(map(len, c)) > 500]


def split(novels: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return (training documents, held-out documents)."""
    train, held_out = [], []
    for novel in novels.values():
        chapters = chapters_of(novel)
        cut = (1 - HELD_OUT) * sum(map(len, chapters))
        seen = 0
        for chapter in chapters:
            keep = int(min(max(cut - seen, 0), len(chapter)))
            if keep:
                train.append(chapter[:keep])
            if keep < len(chapter):
                held_out.append(chapter[keep:])
            seen += len(chapter)
    return train, held_out


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """Train a byte-level BPE; encoding puts the begin-of-text token in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=CONFIG["vocab_size"],
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    ids = [i for d in documents for i in [*tokenizer.encode(d).ids, tokenizer.token_to_id(EOS)]]
    return torch.tensor(ids)


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, tokenizer: Tokenizer, documents: list[str]) -> float:
    """Return the model's code length of ``documents`` in bits per UTF-8 byte.

    Windows of 512 tokens with a stride of 256: every token but a document's first is predicted
    from at least 256 tokens where the document has them.
    """
    model.eval()
    nats, n_bytes = 0.0, 0
    for document in documents:
        ids = torch.tensor(tokenizer.encode(document).ids)
        n_bytes += len(document.encode())
        done = 1
        for start in range(0, max(len(ids) - 256, 1), 256):
            window = ids[start : start + 512]
            logits = model(window[None]).logits[0].float()
            fresh = done - start
            nats += functional.cross_entropy(
                logits[fresh - 1 : -1], window[fresh:], reduction="sum"
            ).item()
            done = start + len(window)
    return nats / math.log(2) / n_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--minutes", type=float, default=75.0, help="stop the cosine cycle by then")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(1775)
    torch.set_num_threads(args.threads)

    train, held_out = split(read_novels(args.package_dir))
    tokenizer = train_tokenizer(train)
    stream = token_stream(tokenizer, train)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="sdpa"))

    def drop(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, args.dropout, model.training)

    hooks = [model.model.embed_tokens.register_forward_hook(drop)]
    for layer in model.model.layers:
        hooks.append(layer.self_attn.o_proj.register_forward_hook(drop))
        hooks.append(layer.mlp.down_proj.register_forward_hook(drop))

    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    started = time.monotonic()
    steps = 0
    for step in range(args.steps):
        elapsed = (time.monotonic() - started) / (60 * args.minutes)
        done = max(step / args.steps, elapsed)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * done))
        starts = torch.randint(len(stream) - args.window - 1, (args.batch,))
        batch = torch.stack([stream[s : s + args.window + 1] for s in starts])
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1]).logits
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        steps = step + 1
        if step % 50 == 0:
            print(f"step {step}  loss {loss.item():.3f}  {done:.1%}", flush=True)
        if step % 500 == 499:
            print(
                f"  held out: {bits_per_byte(model, tokenizer, held_out[:3]):.3f} bits/byte",
                flush=True,
            )

    for hook in hooks:
        hook.remove()
    final = LlamaForCausalLM(LlamaConfig(**CONFIG))
    final.load_state_dict(average.module.state_dict())
    final.to(torch.bfloat16)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    final.save_pretrained(args.output_dir)
    tokenizer.save(str(args.output_dir / "tokenizer.json"))
    figures = {
        "held_out_bits_per_byte": round(bits_per_byte(final.float(), tokenizer, held_out), 4),
        "held_out_bytes": sum(len(d.encode()) for d in held_out),
        "training_bytes": sum(len(d.encode()) for d in train),
        "training_tokens_per_epoch": len(stream),
        "steps": steps,
        "tokens_per_step": args.batch * args.window,
        "parameters": sum(p.numel() for p in final.parameters()),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "torch": torch.__version__,
    }
    (args.output_dir / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
