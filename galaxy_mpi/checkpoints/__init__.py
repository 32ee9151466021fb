"""Models on disk: Hugging Face folders, GGUF files, the demo model of the package."""

from galaxy_mpi.checkpoints.checkpoint import Checkpoint, expected_shapes
from galaxy_mpi.checkpoints.locate import BUILT_IN, cache_folder, default_prompts, fetched, locate

__all__ = [
    "BUILT_IN",
    "Checkpoint",
    "cache_folder",
    "default_prompts",
    "expected_shapes",
    "fetched",
    "locate",
]
