"""Models on disk: Hugging Face folders, and the small one that comes with the package."""

from galaxy_mpi.checkpoints.hugging_face import HuggingFaceCheckpoint, read_config
from galaxy_mpi.checkpoints.locate import BUILT_IN, default_prompts, locate
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer

__all__ = [
    "BUILT_IN",
    "HuggingFaceCheckpoint",
    "TextTokenizer",
    "default_prompts",
    "locate",
    "read_config",
]
