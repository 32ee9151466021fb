"""Other implementations of the collectives, for `ring_collectives`: the MPI library's, and gloo."""

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["PEERS", "GroupComm", "group_comm"]

Call = Callable[[], np.ndarray]


class GroupComm(NamedTuple):
    """The communicator of this rank's group along an axis, and of all ranks."""

    comm: Any
    world: Any


def group_comm(mesh: Mesh, axis: Axis) -> GroupComm:
    """Return a communicator of this rank's group; all ranks call it."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    row, col = mesh.coord(world.rank)
    color, key = (col, row) if axis is Axis.COLUMN else (row, col)
    return GroupComm(world.Split(color, key), world)


class Mpi:
    """The MPI library's collectives on the same groups."""

    name = "mpi"
    transport = "mpi"

    def __init__(self, mesh: Mesh, rank: int, comms: Mapping[Axis, GroupComm]) -> None:
        self._comms = {axis: group.comm for axis, group in comms.items()}

    def call(self, op: str, axis: Axis, values: np.ndarray) -> Call:
        """Return what runs ``op`` on float32 values of this rank, (size, n)."""
        comm = self._comms[axis]
        if op == "all_gather":
            block, out = values[comm.rank].copy(), np.empty_like(values)
            return lambda: comm.Allgather(block, out) or out
        if op == "reduce_scatter":
            part = np.empty(values.shape[1], np.float32)
            return lambda: comm.Reduce_scatter_block(values, part) or part
        total = np.empty_like(values)
        return lambda: comm.Allreduce(values, total) or total

    def close(self) -> None:
        """Do nothing: communicators end with the run."""


class Gloo:
    """torch.distributed's CPU backend."""

    name = "gloo"
    transport = "tcp"

    def __init__(self, mesh: Mesh, rank: int, comms: Mapping[Axis, GroupComm]) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        self._torch, self._dist = torch, dist
        path = tempfile.mktemp(prefix="galaxy_mpi_gloo_") if rank == 0 else None
        path = comms[Axis.COLUMN].world.bcast(path)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo", init_method=f"file://{path}", rank=rank, world_size=mesh.n_chips
        )
        self._groups = {}
        for axis in Axis:
            for members in sorted({mesh.group(r, axis) for r in range(mesh.n_chips)}):
                group = dist.new_group(list(members))
                if rank in members:
                    self._groups[axis] = group, members.index(rank)

    def call(self, op: str, axis: Axis, values: np.ndarray) -> Call:
        """Return what runs ``op`` on float32 values of this rank, (size, n)."""
        group, index = self._groups[axis]
        torch, dist = self._torch, self._dist
        tensor = torch.from_numpy(values.copy())
        if op == "all_gather":
            out = list(torch.empty_like(tensor).unbind())
            block = tensor[index].clone()
            return lambda: dist.all_gather(out, block, group=group) or torch.stack(out).numpy()
        work = torch.empty_like(tensor)

        def reduce() -> np.ndarray:
            work.copy_(tensor)  # gloo reduces in place
            dist.all_reduce(work, group=group)
            return work.numpy()

        if op == "all_reduce":
            return reduce
        return lambda: reduce()[index]  # gloo has no reduce-scatter

    def close(self) -> None:
        """Leave the process group."""
        self._dist.destroy_process_group()


PEERS = {"mpi": Mpi, "gloo": Gloo}
