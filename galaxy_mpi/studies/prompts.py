"""Prompts of a run as passes: in chunks if the system does so, and after a cached prefix.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``MAX_PREFILL_CHUNK_SIZES_DIV1024``.
"""

from dataclasses import replace

from galaxy_mpi.arrays import added
from galaxy_mpi.dtypes import padded
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.systems import PassShape
from galaxy_mpi.systems.prefill_pass import padded_length
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.times import Timing

__all__ = ["chosen_passes", "chunk_tokens", "passes_of", "prompt_s"]

_CHUNKS: dict[tuple[int, int], tuple[int, int, int, int]] = {
    (2048, 16): (128, 128, 128, 128),  # Llama-3.2-1B
    (3072, 28): (8, 128, 128, 128),  # Llama-3.2-3B
    (4096, 32): (4, 64, 128, 128),  # Llama-3.1-8B
    (8192, 80): (32, 32, 32, 128),  # Llama-3.1-70B; Qwen2.5-72B has 16 on eight chips
    (3584, 28): (4, 32, 128, 128),  # Qwen2.5-7B
    (5120, 64): (64, 64, 64, 128),  # Qwen3-32B, QwQ-32B
    (5120, 48): (4, 64, 128, 128),  # Qwen2.5-14B
    (3072, 32): (128, 128, 128, 128),  # Phi-3.5-mini
}
"""In units of 1,024 tokens, on one, two, eight and more chips, by dim and layers."""

_OTHERS = (4, 4, 4, 4)

_MISTRAL_VOCAB = 32768
"""Mistral 7B has the sizes of Llama-3.1-8B but is not in the original's list."""

BEHIND_LAYERS = (
    "lm_head_matmul",
    "all_gather_lm_head",
    "all_reduce_lm_head",
    "sum_lm_head",
    "all_gather_logits",
    "untilize_logits",
    "host",
)
"""Ops that only the last chunk of a prompt needs."""


def chunk_tokens(model: LlamaConfig, n_chips: int) -> int:
    """Return how many tokens of a prompt the generic system prefills per pass.

    Examples
    --------
    >>> from galaxy_mpi.models.presets import PRESETS
    >>> chunk_tokens(PRESETS["llama3-8b"], 1), chunk_tokens(PRESETS["mistral-7b"], 8)
    (4096, 4096)
    """
    sizes = _CHUNKS.get((model.dim, model.n_layers), _OTHERS)
    if model.vocab_size == _MISTRAL_VOCAB:
        sizes = _OTHERS
    if (model.dim, model.n_layers, model.qkv_bias) == (8192, 80, True):
        sizes = (16, 16, 16, 128)
    place = 0 if n_chips == 1 else 1 if n_chips < 4 else 2 if n_chips < 32 else 3
    return 1024 * sizes[place]


def passes_of(n_tokens: int, start: int, most: int | None) -> list[PassShape]:
    """Return the passes of a prompt with ``start`` cached tokens.

    Parameters
    ----------
    n_tokens : int
    start : int
        A multiple of 128.
    most : int, optional
        Tokens per pass; None: all.
    """
    shapes, begin = [], start
    while begin < n_tokens:
        stop = n_tokens if most is None else min(n_tokens, begin + most)
        n_rows, length = padded(stop - begin), padded_length(stop - begin)
        shapes.append(PassShape((n_rows,), (0,), 1, length, begin))
        begin = stop
    return shapes


def prompt_s(estimator: Estimator, shapes: list[PassShape]) -> Timing:
    """Return the time of a prompt; only the last chunk runs the ops after the layers."""
    *chunks, last = [estimator.prefill(shape) for shape in shapes]
    by_op_s = dict(last.by_op_s)
    seconds, by_bound_s = last.seconds, dict(last.by_bound_s)
    for timing in chunks:
        behind_s = added(timing.by_op_s.get(name, 0.0) for name in BEHIND_LAYERS)
        seconds += timing.seconds - behind_s
        for name, op_s in timing.by_op_s.items():
            if name not in BEHIND_LAYERS:
                by_op_s[name] = by_op_s.get(name, 0.0) + op_s
    return replace(last, seconds=seconds, by_op_s=by_op_s, by_bound_s=by_bound_s)


def chosen_passes(
    estimator: Estimator, n_tokens: int, start: int, most: int | None
) -> list[PassShape]:
    """Return the passes of a prompt as a system chooses them.

    The Galaxy, which prefills all of a prompt at once, does not use a cached prefix where to attend
    to it page by page takes longer than to prefill the prompt as a whole, over all columns.
    Published times of cached prompts equal those of whole ones there.
    """
    behind, whole = passes_of(n_tokens, start, most), passes_of(n_tokens, 0, most)
    if start == 0 or most is not None:
        return behind
    return min(behind, whole, key=lambda shapes: prompt_s(estimator, shapes).seconds)
