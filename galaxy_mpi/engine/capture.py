"""Outputs of ops, saved to files: ``--capture DIR``.

There is one safetensors file per pass and step, ``prefill-0001.safetensors`` and so on. If an op
declares the sharding of an output (`Op.cuts`), the chips' shards are joined to a whole tensor in
the model's own order (`galaxy_mpi.models.ModelOrder`), which no mesh and no layout changes; other
outputs are saved per chip. `galaxy_mpi.studies.differences` compares two folders.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from galaxy_mpi.arrays import Array
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import Layout, ModelOrder
from galaxy_mpi.program import HEAD, Binder, Choice, Cut, Program, Tap, Use

__all__ = ["Capture", "join_parts"]


class Capture:
    """Saves outputs of ops of a run.

    Parameters
    ----------
    folder : Path
        Created if necessary.
    choice : Choice
    layout : Layout
    transport : Transport
    """

    def __init__(self, folder: Path, choice: Choice, layout: Layout, transport: Transport) -> None:
        self._folder, self._choice, self._mesh = folder, choice, layout.mesh
        self._layout, self._order = layout.key, ModelOrder(layout)
        self._transport = transport
        self._n_runs = Counter[str]()
        self._is_on = False
        self._parts: dict[tuple[str, int], Array] = {}
        transport.from_root(self._make_folder)

    def tap(self, program: Program) -> Tap:
        """Return a tap that saves the chosen outputs."""
        names = names_of(program)

        def tap(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
            cuts = use.op.cuts()
            for (output, _), values in zip(use.named_outputs(), outputs, strict=True):
                if self._choice.has(use, output) and _is_needed(chip, cuts.get(output)):
                    chip.call(self._keep, (names[id(use), output], chip.rank), values)

        return tap

    def start(self, mode: str) -> None:
        """Begin a pass or a step."""
        self._n_runs[mode] += 1
        self._is_on = self._choice.has_run(mode, self._n_runs[mode])

    def end(self, program: Program) -> None:
        """Write the saved outputs. Collective.

        Raises
        ------
        ConfigError
            On all ranks, if it cannot be written.
        """
        if not self._is_on:
            return
        gathered = self._transport.gather(self._parts)
        self._parts = {}
        parts = {key: values for of_rank in gathered or () for key, values in of_rank.items()}
        self._transport.from_root(lambda: self._write(program, parts))

    def _keep(self, key: tuple[str, int], values: Array) -> None:
        if self._is_on:
            self._parts[key] = np.array(values)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for old in self._folder.glob("*.safetensors"):  # of an earlier run
                if old.name.startswith(("prefill-", "decode-")):
                    old.unlink()
        except OSError as error:
            raise ConfigError(
                f"--capture {self._folder}: {error.strerror}; name a folder that can be made"
            ) from None

    def _write(self, program: Program, parts: dict[tuple[str, int], Array]) -> None:
        # Imported here: only rank 0 writes, and only in few runs.
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        names, tensors, entries = names_of(program), dict[str, Array](), []
        orders: dict[str, list[int]] = {}
        for use in program.uses:
            cuts = use.op.cuts()
            for output, _ in use.named_outputs():
                name = names[id(use), output]
                own = {rank: values for (of, rank), values in parts.items() if of == name}
                if not own:
                    continue
                cut = cuts.get(output)
                entry: JsonObject = {"layer": use.layer, "op": use.op.name, "output": output}
                if cut is not None:
                    part = use.op.parts().get(output)
                    joined = join_parts(own, cut, self._mesh)
                    tensors[name], places = self._order.of(joined, cut, part)
                    axes = [[axis.group_name for axis in of_dim] for of_dim in cut]
                    entry |= {"cut": axes, "joined": list(joined.shape)}
                    for dim, of_dim in places.items():
                        entry["order"] = {str(dim): f"{part}-{len(of_dim)}"}
                        orders[f"{part}-{len(of_dim)}"] = of_dim.tolist()
                    entries.append({"name": name, **entry})
                    continue
                for rank, values in own.items():
                    row, col = self._mesh.coord(rank)
                    tensors[f"{name}@{row},{col}"] = values
                    entries.append({"name": f"{name}@{row},{col}", **entry, "chip": [row, col]})
        number = self._n_runs[program.mode]
        about = {
            "mode": program.mode,
            "number": number,
            "mesh": str(self._mesh),
            "layout": self._layout,
            "values": entries,
            "orders": orders,
        }
        path = self._folder / f"{program.mode}-{number:04}.safetensors"
        try:
            save_file(tensors, path, {"galaxy_mpi": json.dumps(about)})
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"--capture {path} cannot be written: {error}") from None


def names_of(program: Program) -> dict[tuple[int, str], str]:
    """Return a unique name for each output of each op, such as ``3.w2.out``."""
    seen, names = Counter[tuple[int, str]](), dict[tuple[int, str], str]()
    for use in program.uses:
        seen[use.layer, use.op.name] += 1
        n_seen = seen[use.layer, use.op.name]
        layer = "head" if use.layer == HEAD else str(use.layer)
        again = f"#{n_seen}" if n_seen > 1 else ""
        for output, _ in use.named_outputs():
            names[id(use), output] = f"{layer}.{use.op.name}{again}.{output}"
    return names


def join_parts(parts: Mapping[int, Array], cut: Cut, mesh: Mesh) -> Array:
    """Return a whole tensor.

    Parameters
    ----------
    parts : dict of int to ndarray
        Shards by rank, all of one shape.
    cut : Cut
    mesh : Mesh

    Examples
    --------
    >>> parts = {rank: np.full((1, 2), rank) for rank in range(4)}
    >>> join_parts(parts, ((Axis.COLUMN,), (Axis.ROW,)), Mesh(2, 2))
    array([[0, 0, 1, 1],
           [2, 2, 3, 3]])
    """
    sample = next(iter(parts.values()))
    counts = [int(np.prod([mesh.size(axis) for axis in axes])) for axes in cut]
    shape = [size * count for size, count in zip(sample.shape, counts, strict=True)]
    whole = np.empty(shape, sample.dtype)
    for rank, values in parts.items():
        places = []
        for axes, size in zip(cut, values.shape, strict=True):
            number = 0
            for axis in axes:
                number = number * mesh.size(axis) + mesh.coord(rank)[axis]
            places.append(slice(number * size, (number + 1) * size))
        whole[tuple(places)] = values
    return whole


def _is_needed(chip: Binder, cut: Cut | None) -> bool:
    """Return whether a chip's shard is needed: of replicas, only the first is."""
    if cut is None:
        return True
    axes = {axis for of_dim in cut for axis in of_dim}
    return all(chip.index(axis) == 0 for axis in Axis if axis not in axes)
