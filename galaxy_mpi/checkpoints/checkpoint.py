"""A model's tensors by Meta's names, for any kind of file.

Rank 0 reads and checks the headers, and broadcasts a table. All ranks then map the files and read
their own shards.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.checkpoints.stored import FileMaps, Stored
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.models.config import LlamaConfig

__all__ = ["Checkpoint", "expected_shapes", "half_split"]

Key = tuple[str, int]
"""Meta's name and the layer, -1 for tensors outside of layers."""


def expected_shapes(config: LlamaConfig) -> dict[Key, tuple[int, ...]]:
    """Return which tensors a model must have, and their shapes, (out, in)."""
    c = config
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "wq": (q, c.dim),
        "wk": (kv, c.dim),
        "wv": (kv, c.dim),
        "wo": (c.dim, q),
        "w1": (c.hidden_dim, c.dim),
        "w3": (c.hidden_dim, c.dim),
        "w2": (c.dim, c.hidden_dim),
        "attention_norm": (c.dim,),
        "ffn_norm": (c.dim,),
    }
    if c.qkv_bias:
        layer |= {"bq": (q,), "bk": (kv,), "bv": (kv,)}
    if c.qk_norm:
        layer |= {"q_norm": (c.head_dim,), "k_norm": (c.head_dim,)}
    shapes = {(name, n): shape for n in range(c.n_layers) for name, shape in layer.items()}
    shapes["norm", -1] = (c.dim,)
    shapes["embedding", -1] = (c.vocab_size, c.dim)
    if not c.tie_embeddings:
        shapes["output", -1] = (c.vocab_size, c.dim)
    return shapes


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model.

    Parameters
    ----------
    config : LlamaConfig
    tensors : dict
        Location of each, by name and layer.
    interleaved : bool
        Whether rows of wq and wk are in Meta's order, with the values of a rotary pair adjacent.
        They are read in Hugging Face's order, half a head apart.
    """

    config: LlamaConfig
    tensors: dict[Key, Stored]
    interleaved: bool = False
    _files: FileMaps = field(default_factory=FileMaps, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": FileMaps()}

    def check(self, names: dict[Key, str], where: str) -> None:
        """Raise if a tensor is missing or its shape does not match the sizes.

        Parameters
        ----------
        names : dict
            What each expected tensor is called in the files.
        where : str
            Folder or file, for messages.

        Raises
        ------
        CheckpointError
            Naming the tensor, and its file if it has one.
        """
        for key, shape in expected_shapes(self.config).items():
            stored = self.tensors.get(key)
            if stored is None:
                raise CheckpointError(
                    f"tensor {names[key]} is in no file of {where}; "
                    f"is a file missing, or are the sizes another model's?"
                )
            if stored.shape != shape:
                raise CheckpointError(
                    f"tensor {stored.name} in {stored.path} has shape {list(stored.shape)}, "
                    f"its config asks for {list(shape)}; they belong to different models"
                )

    def read(self, name: str, layer: int, rows: slice, cols: slice) -> F32:
        """Return a part of a matrix as float32; a vector is read as one row.

        Rows of wq and wk are whole heads.

        See Also
        --------
        galaxy_mpi.models.TensorReader.read
        """
        values = self._files.reader(self.tensors[name, layer], cols)(rows)
        if self.interleaved and name in ("wq", "wk"):
            return half_split(values, self.config.head_dim)
        return values

    def row_reader(self, name: str, cols: slice) -> Callable[[Ints], F32]:
        """Return what reads single rows of a matrix that belongs to no layer."""
        return self._files.reader(self.tensors[name, -1], cols)


def half_split(rows: F32, head_dim: int) -> F32:
    """Put the first values of all pairs of a head before the second ones."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
