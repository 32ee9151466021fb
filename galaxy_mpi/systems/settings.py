"""What ``performance`` and ``accuracy`` mean: formats of weights and cache, fidelities, by model.

The Galaxy has one flag. The generic system has a format per tensor group and a fidelity per op
group, which depend on the family and size of the model. A model is identified by its sizes, because
the name of its folder is up to the user.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``ModelOptimizations``.
.. [2] tt-metal, models/demos/llama3_70b_galaxy/tt/model_config.py, ``LlamaOptimizations``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from galaxy_mpi.dtypes import BF16, BFP4, BFP8, DType
from galaxy_mpi.kernels import Fidelity

__all__ = [
    "GALAXY_SETTINGS",
    "TT_TRANSFORMERS_SETTINGS",
    "Choice",
    "ModelSizes",
    "Setting",
    "Settings",
]

LOFI, HIFI2, HIFI4 = Fidelity.LOFI, Fidelity.HIFI2, Fidelity.HIFI4


class ModelSizes(Protocol):
    """What identifies families and sizes."""

    @property
    def dim(self) -> int:
        """Width of the residual stream."""

    @property
    def n_layers(self) -> int:
        """Layers."""

    @property
    def vocab_size(self) -> int:
        """Tokens."""

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward."""

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k and v have a bias (Qwen2)."""

    @property
    def qk_norm(self) -> bool:
        """Whether heads are normalised (Qwen3)."""


@dataclass(frozen=True)
class Setting:
    """A format for each tensor group and a fidelity for each op group."""

    formats: Mapping[str, DType | None] = field(default_factory=dict)
    """``activation`` None: each tensor as in the system's table."""
    fidelities: Mapping[str, Fidelity] = field(default_factory=dict)

    def but(
        self,
        formats: Mapping[str, DType | None] | None = None,
        fidelities: Mapping[str, Fidelity] | None = None,
    ) -> "Setting":
        """Return the setting with some groups changed."""
        return Setting(
            {**self.formats, **(formats or {})}, {**self.fidelities, **(fidelities or {})}
        )


DEFAULT = Setting(
    {"ff1_3": BFP8, "ff2": BFP8, "wqkv": BFP8, "wo": BFP8, "kv_cache": BFP8, "activation": None},
    {
        "li_ff1_3": HIFI2,
        "li_ff2": HIFI2,
        "li_qkv_decode": HIFI2,
        "li_o_decode": HIFI2,
        "sdpa_decode": HIFI2,
        "li_qkv_prefill": HIFI2,
        "li_o_prefill": HIFI2,
        "sdpa_prefill": HIFI4,
    },
)
"""``_default_settings`` of the original: for groups that a file does not name."""

_FEW_BITS = DEFAULT.but({"ff1_3": BFP4}, {"li_ff1_3": LOFI})

_EXACT_ATTENTION = DEFAULT.but(
    dict.fromkeys(("wqkv", "wo", "kv_cache"), BF16),
    {group: HIFI4 for group in DEFAULT.fidelities if not group.startswith("li_ff")},
)


class Choice(NamedTuple):
    """The setting for some models."""

    models: str
    holds: Callable[[ModelSizes], bool]
    setting: Setting
    source: str


class Settings(NamedTuple):
    """What both names mean on a system; the first choice that applies counts."""

    performance: tuple[Choice, ...]
    accuracy: tuple[Choice, ...]

    def choice(self, name: str, model: ModelSizes) -> Choice:
        """Return what ``performance`` or ``accuracy`` means for a model."""
        choices: tuple[Choice, ...] = getattr(self, name)
        return next(choice for choice in choices if choice.holds(model))


def _every(model: ModelSizes) -> bool:
    return True


def _is_plain(model: ModelSizes) -> bool:
    return not (model.qkv_bias or model.qk_norm)


def _is_llama3(model: ModelSizes) -> bool:
    return _is_plain(model) and model.vocab_size == 128_256


def _is_llama_70b(model: ModelSizes) -> bool:
    return _is_llama3(model) and model.dim == 8192


def _is_mistral_7b(model: ModelSizes) -> bool:
    sizes = (model.dim, model.hidden_dim)
    return _is_plain(model) and sizes == (4096, 14336) and model.vocab_size in (32_000, 32_768)


def _is_phi(model: ModelSizes) -> bool:
    sizes = (model.dim, model.vocab_size)
    return _is_plain(model) and sizes in ((3072, 32_064), (5120, 100_352))


def _is_qwen2_7b(model: ModelSizes) -> bool:
    return model.qkv_bias and (model.dim, model.hidden_dim) == (3584, 18_944)


def _is_qwen2_72b(model: ModelSizes) -> bool:
    return model.qkv_bias and model.dim == 8192


_GENERIC = "tt_transformers/tt/model_config.py, ModelOptimizations"
_GALAXY = "llama3_70b_galaxy/tt/model_config.py, LlamaOptimizations: bfp4_mlp"

TT_TRANSFORMERS_SETTINGS = Settings(
    performance=(
        Choice("Qwen2.5-7B", _is_qwen2_7b, _EXACT_ATTENTION, f"{_GENERIC}.performance"),
        Choice("all others", _every, _FEW_BITS, f"{_GENERIC}.performance"),
    ),
    accuracy=(
        # Llama-3.3-70B, of the same sizes, is not in the original's list; its published accuracy
        # is that of 3.1.
        Choice("Llama 3 of 70B and more", _is_llama_70b, _FEW_BITS, f"{_GENERIC}.accuracy"),
        Choice("Qwen2.5-72B", _is_qwen2_72b, _FEW_BITS, f"{_GENERIC}.accuracy"),
        Choice("Llama 3", _is_llama3, DEFAULT, f"{_GENERIC}.accuracy"),
        Choice("Mistral-7B", _is_mistral_7b, DEFAULT, f"{_GENERIC}.accuracy"),
        Choice("Phi-3-mini, phi-4", _is_phi, DEFAULT, f"{_GENERIC}.accuracy"),
        Choice("every other family", _every, _EXACT_ATTENTION, f"{_GENERIC}.accuracy"),
    ),
)

GALAXY_SETTINGS = Settings(
    performance=(Choice("all", _every, _FEW_BITS, f"{_GALAXY}=True"),),
    accuracy=(
        Choice("70B", _is_llama_70b, _FEW_BITS, f'{_GALAXY}="70B" in model_name'),
        Choice("all others", _every, DEFAULT, f'{_GALAXY}="70B" in model_name'),
    ),
)
