"""Published accuracy of the original: top-1 and top-5 of whole models.

Measured as `galaxy_mpi.accuracy` does: one user, 512 tokens prefilled, 511 generated, each time
fed the token of the reference text; compared with the best and the five best tokens of
transformers. Figures are whole percents; the original's tests accept half a percent less.

References
----------
.. [1] tt-metal, models/tt_transformers/PERF.md, 040a27c1 (2026), tables of both precisions.
"""

from dataclasses import dataclass

from galaxy_mpi.systems.settings import ModelSizes

__all__ = ["PUBLISHED", "Published", "published"]


@dataclass(frozen=True)
class Published:
    """One row: a model on a machine."""

    model: str
    sizes: tuple[int, int, int, int]
    """Dim, layers, feed-forward width, vocabulary."""
    mesh: str
    """The machine as a mesh: 1x1 N150, 1x2 N300, 1x8 T3K, 8x4 Galaxy."""
    performance: tuple[int, int]
    """top-1 and top-5, percent."""
    accuracy: tuple[int, int]


_LLAMA_1B = (2048, 16, 8192, 128_256)
_LLAMA_3B = (3072, 28, 8192, 128_256)
_LLAMA_8B = (4096, 32, 14_336, 128_256)
_LLAMA_70B = (8192, 80, 28_672, 128_256)
_MISTRAL = (4096, 32, 14_336, 32_768)
_QWEN_7B = (3584, 28, 18_944, 152_064)
_QWEN_32B = (5120, 64, 27_648, 152_064)
_QWEN_72B = (8192, 80, 29_568, 152_064)
_QWEN3_32B = (5120, 64, 25_600, 151_936)
_PHI4 = (5120, 40, 17_920, 100_352)

PUBLISHED = (
    Published("Llama-3.2-1B", _LLAMA_1B, "1x1", (79, 97), (87, 99)),
    Published("Llama-3.2-1B", _LLAMA_1B, "1x2", (79, 97), (87, 98)),
    Published("Llama-3.2-1B", _LLAMA_1B, "1x8", (80, 97), (88, 99)),
    Published("Llama-3.2-1B", _LLAMA_1B, "8x4", (77, 96), (85, 98)),
    Published("Llama-3.2-3B", _LLAMA_3B, "1x1", (89, 98), (96, 100)),
    Published("Llama-3.2-3B", _LLAMA_3B, "1x2", (89, 98), (96, 100)),
    Published("Llama-3.2-3B", _LLAMA_3B, "1x8", (91, 99), (96, 100)),
    Published("Llama-3.2-3B", _LLAMA_3B, "8x4", (87, 97), (92, 99)),
    Published("Llama-3.1-8B", _LLAMA_8B, "1x1", (90, 97), (96, 100)),
    Published("Llama-3.1-8B", _LLAMA_8B, "1x2", (90, 97), (96, 100)),
    Published("Llama-3.1-8B", _LLAMA_8B, "1x8", (90, 98), (97, 100)),
    Published("Llama-3.1-8B", _LLAMA_8B, "8x4", (88, 97), (95, 100)),
    Published("Llama-3.1-70B", _LLAMA_70B, "1x8", (96, 100), (96, 100)),
    Published("Llama-3.1-70B", _LLAMA_70B, "8x4", (95, 100), (95, 100)),
    Published("Mistral-7B", _MISTRAL, "1x1", (95, 99), (96, 100)),
    Published("Mistral-7B", _MISTRAL, "1x2", (95, 100), (97, 100)),
    Published("Mistral-7B", _MISTRAL, "1x8", (95, 100), (98, 100)),
    Published("Qwen2.5-7B", _QWEN_7B, "1x2", (84, 96), (84, 96)),
    Published("Qwen2.5-32B", _QWEN_32B, "1x8", (98, 99), (95, 99)),
    Published("Qwen2.5-72B", _QWEN_72B, "1x8", (99, 100), (99, 100)),
    Published("Qwen3-32B", _QWEN3_32B, "1x8", (89, 97), (95, 100)),
    Published("Phi-4", _PHI4, "1x2", (97, 100), (99, 100)),
)


def published(model: ModelSizes, mesh: str, system: str, precision: str) -> tuple[int, int] | None:
    """Return top-1 and top-5 in percent, None if nothing is published for the model and mesh."""
    sizes = (model.dim, model.n_layers, model.hidden_dim, model.vocab_size)
    if system != "tt_transformers" or precision not in ("performance", "accuracy"):
        return None
    for row in PUBLISHED:
        if (row.sizes, row.mesh) == (sizes, mesh):
            found: tuple[int, int] = getattr(row, precision)
            return found
    return None
