"""Packed shards on disk: what a rank packed once, the next run maps.

One safetensors file a rank, written whole or not at all. A file that was cut short, changed, or
made for another model, mesh or precision is not used, and made anew.
"""

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes import PackedTensor
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.precision import Precision

__all__ = ["ShardFile", "Shards"]

_SCHEMA = 1


@dataclass(frozen=True)
class Shards:
    """What is packed of one chip's weights."""

    tensors: dict[WeightId, PackedTensor]
    vectors: dict[tuple[int, str], F32]


@dataclass(frozen=True)
class ShardFile:
    """The file of one rank.

    Parameters
    ----------
    path : Path
    key : str
        Says of which model, mesh, precision and rank the shards are.
    """

    path: Path
    key: str

    def read(self, precision: Precision) -> Shards | None:
        """Return the shards, mapped; None if the file is not there or cannot be believed."""
        try:
            with safe_open(str(self.path), framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})["galaxy_mpi"])
            if metadata["schema"] != _SCHEMA or metadata["key"] != self.key:
                return None
            described = metadata["tensors"]
            parts = self._parts()
            if set(parts) != set(described):
                return None
            if any(_checksum(data) != described[name]["crc"] for name, data in parts.items()):
                return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None
        tensors: dict[WeightId, PackedTensor] = {}
        vectors: dict[tuple[int, str], F32] = {}
        for full_name, data in parts.items():
            layer, kind, name = full_name.split("/")
            if kind == "vector":
                vectors[int(layer), name] = data.view(np.float32)
            else:
                shape = tuple(described[full_name]["shape"])
                dtype = precision.of(int(layer)).weight(name)
                tensors[WeightId(int(layer), name)] = PackedTensor(data, shape, dtype)
        return Shards(tensors, vectors)

    def write(self, shards: Shards) -> None:
        """Write the shards.

        Raises
        ------
        OSError
            If they cannot be written; nothing is left then.
        """
        parts: dict[str, Bytes] = {}
        described: dict[str, Any] = {}
        for weight, tensor in shards.tensors.items():
            name = f"{weight.layer}/packed/{weight.name}"
            parts[name] = np.ascontiguousarray(tensor.data)
            described[name] = {"shape": tensor.shape, "crc": _checksum(parts[name])}
        for (layer, vector), values in shards.vectors.items():
            name = f"{layer}/vector/{vector}"
            parts[name] = np.ascontiguousarray(values).view(np.uint8)
            described[name] = {"crc": _checksum(parts[name])}
        # One entry: the library writes several in any order, and the same shards are to be the
        # same bytes.
        content = {"schema": _SCHEMA, "key": self.key, "tensors": described}
        metadata = {"galaxy_mpi": json.dumps(content)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            save_file(parts, draft, metadata)
            draft.replace(self.path)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        finally:
            draft.unlink(missing_ok=True)

    def _parts(self) -> dict[str, Bytes]:
        """Return the data of each tensor, mapped."""
        raw = np.memmap(self.path, np.uint8, mode="r")
        n_header = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:n_header].tobytes())
        return {
            name: np.asarray(raw[n_header + entry["data_offsets"][0] :][: entry["shape"][0]])
            for name, entry in header.items()
            if name != "__metadata__"
        }


def _checksum(data: Bytes) -> int:
    return zlib.crc32(data.data)
