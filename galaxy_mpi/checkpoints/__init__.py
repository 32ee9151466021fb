"""Models on disk: Hugging Face folders, GGUF files, the small one that comes with the package."""

from galaxy_mpi.checkpoints.checkpoint import Checkpoint, expected_shapes
from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.hugging_face import open_folder, read_config
from galaxy_mpi.checkpoints.locate import BUILT_IN, cache_folder, default_prompts, fetched, locate
from galaxy_mpi.checkpoints.meta import MetaCheckpoint
from galaxy_mpi.checkpoints.model_files import ModelFiles, model_sizes, open_model
from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint
from galaxy_mpi.checkpoints.tokenizer import ChatTemplate, NumberTokenizer, TextTokenizer, Tokenizer

__all__ = [
    "BUILT_IN",
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
    "default_prompts",
    "expected_shapes",
    "fetched",
    "locate",
    "model_sizes",
    "open_folder",
    "open_model",
    "read_config",
]
