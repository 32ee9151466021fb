"""Meta's folders: ``params.json`` and ``consolidated.*.pth``, each with a shard of every matrix.

Files are opened by torch with ``weights_only`` (nothing in them is executed) and mapped, not read.
Rows of wq and wk are in Meta's order; see `Checkpoint`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.checkpoints.checkpoint import expected_shapes, half_split
from galaxy_mpi.checkpoints.hugging_face_config import eos_tokens, read_json
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import Fields, shown
from galaxy_mpi.models.config import LARGEST_SIZE, MOST_LAYERS, LlamaConfig, RopeScaling

__all__ = ["MetaCheckpoint", "is_meta_folder", "open_meta"]

_NAMES = {
    "wq": "layers.{}.attention.wq.weight",
    "wk": "layers.{}.attention.wk.weight",
    "wv": "layers.{}.attention.wv.weight",
    "wo": "layers.{}.attention.wo.weight",
    "w1": "layers.{}.feed_forward.w1.weight",
    "w2": "layers.{}.feed_forward.w2.weight",
    "w3": "layers.{}.feed_forward.w3.weight",
    "attention_norm": "layers.{}.attention_norm.weight",
    "ffn_norm": "layers.{}.ffn_norm.weight",
    "norm": "norm.weight",
    "embedding": "tok_embeddings.weight",
    "output": "output.weight",
}

_CUT_COLUMNS = ("wo", "w2")
"""Matrices whose columns are split over the files. Others are split by rows; vectors are whole."""


def is_meta_folder(folder: Path) -> bool:
    """Return whether a folder has this format."""
    return (folder / "params.json").is_file() and not (folder / "config.json").is_file()


@dataclass(frozen=True)
class MetaCheckpoint:
    """The tensors of a folder; every rank maps its files.

    Parameters
    ----------
    config : LlamaConfig
    paths : tuple of Path
        Of the files, in order.
    """

    config: LlamaConfig
    paths: tuple[Path, ...]
    _files: dict[Path, dict[str, object]] = field(default_factory=dict, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": {}}

    def read(self, name: str, layer: int, rows: slice, cols: slice) -> F32:
        """Return a part of a matrix; see `galaxy_mpi.models.TensorReader.read`."""
        values = self._matrix(name, layer, cols)(rows)
        return half_split(values, self.config.head_dim) if name in ("wq", "wk") else values

    def row_reader(self, name: str, cols: slice) -> Callable[[Ints], F32]:
        """Return what reads single rows of a matrix that belongs to no layer."""
        return self._matrix(name, -1, cols)

    def shape(self, name: str, layer: int) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        parts = self._parts(name, layer)
        if parts[0].ndim == 1:
            return (len(parts[0]),)
        axis = self._axis(name, parts)
        whole = [int(size) for size in parts[0].shape]
        whole[axis] = sum(int(part.shape[axis]) for part in parts)
        return tuple(whole)

    def _matrix(self, name: str, layer: int, cols: slice) -> Callable[[slice | Ints], F32]:
        """Return what gives rows of a matrix's columns, as float32; it reads nothing else."""
        import torch

        parts = self._parts(name, layer)
        is_vector = parts[0].ndim == 1
        if is_vector:
            parts = [parts[0][None]]
        is_beside = not is_vector and self._axis(name, parts) == 1
        pieces = _overlaps(parts, cols) if is_beside else [part[:, cols] for part in parts]

        def rows_of(rows: slice | Ints) -> F32:
            if is_beside:
                index = rows if isinstance(rows, slice) else torch.from_numpy(np.asarray(rows))
                found = torch.cat([piece[index] for piece in pieces], dim=1)
            elif isinstance(rows, slice):
                found = torch.cat(_overlaps_above(pieces, rows))
            else:
                found = _rows_above(pieces, np.asarray(rows))
            values: F32 = found.float().numpy()
            return values

        return rows_of

    def _axis(self, name: str, parts: list[Any]) -> int:
        if name == "embedding":  # split by columns up to Llama 2, by rows since
            return 1 if parts[0].shape[0] == self.config.vocab_size else 0
        return 1 if name in _CUT_COLUMNS else 0

    def _parts(self, name: str, layer: int) -> list[Any]:
        full_name = _NAMES[name].format(layer)
        parts = []
        for path in self.paths:
            tensors = self._open(path)
            if full_name not in tensors:
                raise CheckpointError(
                    f"tensor {full_name} is not in {path}; is params.json another model's?"
                )
            parts.append(tensors[full_name])
        return parts

    def _open(self, path: Path) -> dict[str, object]:
        if path not in self._files:
            try:
                import torch  # imported here: slow, optional, and only for this format
            except ImportError:
                raise CheckpointError(
                    f"{path} is a file of torch, which is not installed: pip install torch (see "
                    f"constraints.txt for one without CUDA), or convert the model to safetensors"
                ) from None

            try:
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except Exception as error:  # a damaged file can make torch raise anything
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise CheckpointError(
                    f"{path} is damaged, cut short or holds more than tensors: {reason}; fetch "
                    f"the file again"
                ) from None
            if not isinstance(tensors, dict) or not all(
                isinstance(tensor, torch.Tensor) for tensor in tensors.values()
            ):
                raise CheckpointError(f"{path} is not a dict of tensors; fetch the file again")
            self._files[path] = tensors
        return self._files[path]


def _overlaps(parts: list[Any], cols: slice) -> list[Any]:
    """Return the pieces of parts beside each other that fall into ``cols``."""
    return [piece.T for piece in _overlaps_above([part.T for part in parts], cols)]


def _overlaps_above(parts: list[Any], rows: slice) -> list[Any]:
    """Return the pieces of parts above each other that fall into ``rows``."""
    start, stop, _ = rows.indices(sum(len(part) for part in parts))
    pieces, first = [], 0
    for part in parts:
        pieces.append(part[max(start - first, 0) : max(stop - first, 0)])
        first += len(part)
    return pieces


def _rows_above(parts: list[Any], rows: Ints) -> Any:
    """Return rows of parts above each other, by number.

    Raises
    ------
    IndexError
        If there is no such row.
    """
    import torch

    ends = np.cumsum([len(part) for part in parts])
    found = torch.empty((len(rows), parts[0].shape[1]), dtype=parts[0].dtype)
    if len(rows) and rows.min() < 0:
        raise IndexError(f"row {rows.min()} of {ends[-1]}")
    which = np.searchsorted(ends, rows, "right")
    for number in np.unique(which).tolist():
        if number == len(parts):
            raise IndexError(f"row {rows.max()} of {ends[-1]}")
        places = np.flatnonzero(which == number)
        first = ends[number] - len(parts[number])
        found[torch.from_numpy(places)] = parts[number][torch.from_numpy(rows[places] - first)]
    return found


def open_meta(folder: Path) -> MetaCheckpoint:
    """Open a folder.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged, or a tensor has a different shape than in ``params.json``.
    """
    path = folder / "params.json"
    fields = read_json(path)
    paths = tuple(sorted(folder.glob("consolidated.*.pth")))
    if not paths:
        raise CheckpointError(f"no consolidated.*.pth in {folder}; fetch the weights of the model")
    try:
        config = _config(fields)
        # Widths that params.json defines incompletely or not at all are read from the tensors.
        probe = MetaCheckpoint(config, paths)
        vocab_size = config.vocab_size if config.vocab_size > 1 else probe.shape("output", -1)[0]
        hidden_dim = probe.shape("w1", 0)[0]
        config = replace(
            config, vocab_size=vocab_size, hidden_dim=hidden_dim, eos_tokens=eos_tokens(folder)
        )
    except CheckpointError as error:
        named = str(error) if str(folder) in str(error) else f"{path}: {error}"
        raise CheckpointError(named) from None
    checkpoint = MetaCheckpoint(config, paths)
    for (name, layer), shape in expected_shapes(config).items():
        found = checkpoint.shape(name, layer)
        if found != shape:
            raise CheckpointError(
                f"tensor {_NAMES[name].format(layer)} in {folder} has shape {list(found)}, "
                f"params.json asks for {list(shape)}; they belong to different models"
            )
    return checkpoint


_KEYS = """
dim n_layers n_heads n_kv_heads head_dim hidden_dim vocab_size multiple_of ffn_dim_multiplier
norm_eps rope_theta use_scaled_rope rope_scaling_factor max_seq_len max_batch_size
model_parallel_size"""
"""Known ones; the feed-forward width is taken from the tensors."""


def _config(fields: Fields) -> LlamaConfig:
    for name in fields.names:
        # Disabled features change nothing.
        if name not in _KEYS.split() and fields.raw(name) not in (False, 0, [], {}):
            raise CheckpointError(
                f"{fields.where}: {shown(name)} is unknown and may change the maths; "
                f"known: {', '.join(sorted(_KEYS.split()))}"
            )
    dim = fields.whole("dim", most=LARGEST_SIZE)
    n_heads = fields.whole("n_heads", most=LARGEST_SIZE)
    factor = fields.number("rope_scaling_factor", 8.0, most=1e6)
    is_scaled = fields.flag("use_scaled_rope", False)
    max_seq_len = fields.whole("max_seq_len", 8192, most=LARGEST_SIZE)
    # -1 in old files: as many as there are rows.
    vocab_size = fields.whole("vocab_size", -1, least=-1, most=LARGEST_SIZE)
    return LlamaConfig(
        dim=dim,
        hidden_dim=1,
        n_layers=fields.whole("n_layers", most=MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=fields.whole("n_kv_heads", n_heads, most=LARGEST_SIZE),
        head_dim=fields.whole("head_dim", max(dim // n_heads, 1), most=LARGEST_SIZE),
        vocab_size=max(1, vocab_size),
        norm_eps=fields.number("norm_eps", most=1.0),
        rope_theta=fields.number("rope_theta", 10_000.0),
        rope_scaling=RopeScaling(factor, 1.0, 4.0, 8192) if is_scaled else None,
        max_seq_len=131_072 if is_scaled else max_seq_len,
        tie_embeddings=False,
    )
