"""Models on disk: Hugging Face folders, GGUF files, the demo model of the package."""

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.checkpoint import Checkpoint, expected_shapes
from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.hugging_face import open_folder
from galaxy_mpi.checkpoints.hugging_face_config import Advice, read_config
from galaxy_mpi.checkpoints.locate import BUILT_IN, cache_folder, default_prompts, fetched, locate
from galaxy_mpi.checkpoints.meta import MetaCheckpoint
from galaxy_mpi.checkpoints.model_files import ModelFiles, model_sizes, open_model
from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint
from galaxy_mpi.checkpoints.tokenizer import (
    NumberTokenizer,
    TextTokenizer,
    Tokenizer,
    check_prompts,
)

__all__ = [
    "BUILT_IN",
    "Advice",
    "ChatTemplate",
    "Checkpoint",
    "GgufFile",
    "MetaCheckpoint",
    "ModelFiles",
    "NumberTokenizer",
    "RandomCheckpoint",
    "TextTokenizer",
    "Tokenizer",
    "cache_folder",
    "check_prompts",
    "default_prompts",
    "expected_shapes",
    "fetched",
    "locate",
    "model_sizes",
    "open_folder",
    "open_model",
    "read_config",
]
