"""What rank 0 reads before a run and broadcasts to the others."""

from typing import TYPE_CHECKING, NamedTuple

from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.systems import Precision

if TYPE_CHECKING:  # an ordinary rank receives one of them, and loads no other
    from galaxy_mpi.checkpoints.checkpoint import Checkpoint
    from galaxy_mpi.checkpoints.meta import MetaCheckpoint
    from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint

__all__ = ["Plan"]


class Plan(NamedTuple):
    """The model and the prompts of a run."""

    checkpoint: "Checkpoint | MetaCheckpoint | RandomCheckpoint"
    model: LlamaConfig
    precision: Precision
    has_device_time: bool
    """Whether the device has the formats of the precision."""
    fingerprint: str | None
    """Fingerprint of the checkpoint's files; None if its weights are not cached."""
    checksums: dict[str, str | None]
    """Of the model's weights and of its tokenizer, for reports."""
    limits: CacheLimits
    sampling: SamplingParams
    prompts: list[str]
    prompt_tokens: list[list[int]]
    bad_prompts: dict[int, str]
    """Reasons for users that are left out."""
