"""Packed shards on disk: what a rank packed once, the next run maps.

One safetensors file a rank, written whole or not at all. A file that was cut short, changed, made
for another model, mesh or precision, or by another user is not used, and made anew. What is in a
file is decided by the layout, never by the file: it only has to fit.
"""

import json
import math
import os
import zlib
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes import FLOAT32, DType, PackedTensor
from galaxy_mpi.models.shard_folder import (
    draft_path,
    is_private,
    make_private,
    prune,
    remove_drafts,
)
from galaxy_mpi.weights import VectorId, WeightId

__all__ = ["Part", "ShardFile", "Shards"]

_SCHEMA = 2

_MOST_HEADER_BYTES = 2**24

_LARGEST_CHECKSUM = 2**32 - 1
"""Room for any is left in a header whose checksums are not known yet."""


class Part(NamedTuple):
    """What a tensor of a file must be."""

    shape: tuple[int, ...]
    dtype: DType
    """Of a matrix; vectors are plain float32."""
    is_vector: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes that it has."""
        if self.is_vector:
            return FLOAT32.tile_bytes // 1024 * math.prod(self.shape)
        return self.dtype.packed_bytes(self.shape)


Parts = dict[WeightId | VectorId, Part]
"""By weight or vector, in the order of the file."""


class Shards(NamedTuple):
    """What is packed of one chip's weights."""

    tensors: dict[WeightId, PackedTensor]
    vectors: dict[VectorId, F32]


class ShardFile(NamedTuple):
    """The file of one rank.

    Parameters
    ----------
    path : Path
        In a folder of its kind, in a folder of its model, in that of the cache.
    key : str
        Says of which model, mesh, precision and rank the shards are.
    """

    path: Path
    key: str

    def read(self, parts: Parts) -> Shards | None:
        """Return the shards, mapped; None if the file is not there or cannot be believed.

        Parameters
        ----------
        parts : dict
            What the layout asks for.
        """
        try:
            raw = self._map()
            found = self._believed(raw, {_full_name(key): part for key, part in parts.items()})
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return None
        if found is None:
            return None
        with suppress(OSError):
            os.utime(self.path)  # so that what is used is not pruned
        tensors: dict[WeightId, PackedTensor] = {}
        vectors: dict[VectorId, F32] = {}
        for key, part in parts.items():
            data = found[_full_name(key)]
            if isinstance(key, VectorId):
                vectors[key] = data.view(np.float32)
            else:
                tensors[key] = PackedTensor(data, part.shape, part.dtype)
        return Shards(tensors, vectors)

    def write(self, parts: Parts, made: Iterable[tuple[WeightId | VectorId, Bytes]]) -> None:
        """Write the shards as they are made, holding one at a time; leave no drafts.

        Parameters
        ----------
        parts : dict
            What is to be written.
        made : iterable of (key, ndarray of uint8)
            The bytes of each part, in the order of ``parts``.

        Raises
        ------
        OSError
            If they cannot be written; nothing is left then.
        """
        checksums = dict.fromkeys(map(_full_name, parts), _LARGEST_CHECKSUM)
        n_header = len(self._header(parts, checksums))
        folder = self.path.parent
        make_private(folder)
        remove_drafts(folder)
        draft = draft_path(self.path)
        try:
            descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.seek(8 + n_header)
                for key, data in made:
                    assert len(data) == parts[key].n_bytes, f"{key} has {len(data)} bytes"
                    name = _full_name(key)
                    checksums[name] = _checksum(data)
                    file.write(data.data)
                file.seek(0)
                header = self._header(parts, checksums).ljust(n_header)
                file.write(n_header.to_bytes(8, "little") + header)
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        if self.path.stem == "rank000":  # one rank is enough
            prune(folder.parent.parent, keep=folder)

    def _header(self, parts: Parts, checksums: dict[str, int]) -> bytes:
        """Return the header of the file, a multiple of 8 bytes."""
        content = json.dumps({"schema": _SCHEMA, "key": self.key, "crc": checksums})
        told = f"{zlib.crc32(content.encode()):08x} {content}"
        header: dict[str, object] = {"__metadata__": {"galaxy_mpi": told}}
        at = 0
        for key, part in parts.items():
            n_bytes = part.n_bytes
            entry = {"dtype": "U8", "shape": [n_bytes], "data_offsets": [at, at + n_bytes]}
            header[_full_name(key)] = entry
            at += n_bytes
        text = json.dumps(header).encode()
        return text.ljust(-(-len(text) // 8) * 8)

    def _map(self) -> Bytes:
        """Return the file's bytes, mapped.

        Raises
        ------
        OSError
            If it is not there, or another user could have written it.
        """
        for folder in (self.path.parent, self.path.parent.parent):
            if not is_private(os.lstat(folder)):
                raise PermissionError(f"{folder} is another user's, or open to others")
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with closing(os.fdopen(descriptor, "rb")) as file:
            if not is_private(os.fstat(descriptor)):
                raise PermissionError(f"{self.path} is another user's, or open to others")
            mapped: Bytes = np.memmap(file, np.uint8, mode="r")
        return mapped

    def _believed(self, raw: Bytes, parts: dict[str, Part]) -> dict[str, Bytes] | None:
        """Return the data of each tensor, None if anything is not as it must be."""
        n_header = int.from_bytes(raw[:8].tobytes(), "little")
        if not 2 <= n_header <= min(_MOST_HEADER_BYTES, len(raw) - 8):
            return None
        header = json.loads(raw[8 : 8 + n_header].tobytes())
        checksum, _, text = header.pop("__metadata__")["galaxy_mpi"].partition(" ")
        if int(checksum, 16) != zlib.crc32(text.encode()):
            return None
        content = json.loads(text)
        if content["schema"] != _SCHEMA or content["key"] != self.key:
            return None
        if not header.keys() == content["crc"].keys() == parts.keys():
            return None
        found: dict[str, Bytes] = {}
        at = 0
        for name, (start, stop) in sorted(
            ((name, entry["data_offsets"]) for name, entry in header.items()),
            key=lambda pair: int(pair[1][0]),
        ):
            if start != at or stop - start != parts[name].n_bytes:
                return None
            found[name] = np.asarray(raw[8 + n_header + start : 8 + n_header + stop])
            at = stop
        if 8 + n_header + at != len(raw):
            return None
        crc: dict[str, object] = content["crc"]
        return found if all(_checksum(data) == crc[name] for name, data in found.items()) else None


def _full_name(key: WeightId | VectorId) -> str:
    return f"{key.layer}/{key.name}"


def _checksum(data: Bytes) -> int:
    return zlib.crc32(data.data)
