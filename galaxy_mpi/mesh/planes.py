"""The planes of a run, chosen once: shared memory inside a host, messages between hosts.

`galaxy_mpi.mesh.mpi` passes in the MPI library, which is used for set-up.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh.host_memory import (
    Offer,
    can_share_memory,
    fetch,
    make_file,
    map_file,
)
from galaxy_mpi.mesh.local_plane import LocalPlane
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.placement import Placement, Team
from galaxy_mpi.mesh.plane import Plane
from galaxy_mpi.mesh.shared_plane import SharedPlane
from galaxy_mpi.mesh.team_memory import TeamMemory, n_files
from galaxy_mpi.mesh.waits import LINE_BYTES, Waits

if TYPE_CHECKING:
    from galaxy_mpi.mesh.message_requests import RequestCache

__all__ = ["Planes"]

HOSTS_VARIABLE = "GALAXY_MPI_TEST_HOSTS"
"""Tests set it to simulate that the ranks are spread over so many hosts."""


class _Piece(NamedTuple):
    """Memory that processes of this host share for a team."""

    axis: Axis
    team: Team
    ranks: tuple[int, ...]


class Planes:
    """Sets up all planes of a process. Collective: every process makes one.

    Parameters
    ----------
    mpi : module
        ``mpi4py.MPI``.
    comm : mpi4py.MPI.Comm
        Of all processes.
    placement : Placement
    kind : str
        ``auto``, ``mpi`` or ``shared``.

    Attributes
    ----------
    waits : Waits
        The waits of this process.

    Raises
    ------
    ConfigError
        If shared memory was requested but is unavailable.
    """

    def __init__(self, mpi: Any, comm: Any, placement: Placement, kind: str) -> None:
        self._mpi, self._comm, self._placement, self._kind = mpi, comm, placement, kind
        self.rank: int = comm.rank
        host = self._host()
        self._host_of: list[int] = comm.allgather(host.bcast(self.rank))
        self._can_share = all(comm.allgather(can_share_memory()))
        self._local = self._ranks_on(self._host_of[self.rank], range(comm.size))
        self._check()
        pieces = self._pieces()
        files = self._files(host, pieces)
        host.Free()
        page = None
        if files:
            page = map_file(files[0], LINE_BYTES * len(self._local))
            os.close(files.pop(0))
        is_whole = len(self._local) == comm.size
        self.waits = Waits(self.rank, self._local, page, names=placement.names, is_whole=is_whole)
        self._memories: dict[tuple[Axis, Team], TeamMemory] = {}
        for piece in pieces:
            if self.rank in piece.ranks:
                mine, files = files[: n_files(piece.team)], files[n_files(piece.team) :]
                self._memories[piece.axis, piece.team] = TeamMemory(
                    placement, piece.team, piece.ranks, self.rank, mine
                )
        self._caches: list[RequestCache] = []
        self._planes: dict[Axis, Plane] = {axis: self._plane(axis) for axis in Axis}

    def __getitem__(self, axis: Axis) -> Plane:
        """Return what connects this process's chips with others along an axis."""
        return self._planes[axis]

    def free(self) -> None:
        """Free what all planes have bound. Collective: every process calls it."""
        for cache in self._caches:
            cache.free()
        for memory in self._memories.values():
            memory.close()

    def _host(self) -> Any:
        """Return the communicator of the processes on this host."""
        host = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED, self.rank)
        n_hosts = int(os.environ.get(HOSTS_VARIABLE, "1"))
        if n_hosts > 1:
            part = host.Split(self.rank * n_hosts // self._comm.size, self.rank)
            host.Free()
            host = part
        return host

    def _ranks_on(self, host: int, ranks: Sequence[int]) -> tuple[int, ...]:
        return tuple(rank for rank in ranks if self._host_of[rank] == host)

    def _name(self, axis: Axis) -> str:
        """Return the kind of an axis: local, shared, mpi or mixed."""
        teams = self._placement.teams(axis)
        if all(len(team.ranks) == 1 for team in teams):
            return "local"
        if self._kind == "mpi" or not self._can_share:
            return "mpi"
        hosts = [[self._host_of[rank] for rank in team.ranks] for team in teams]
        if all(len(set(of_team)) == 1 for of_team in hosts):
            return "shared"
        return "mixed" if any(len(set(h)) < len(h) for h in hosts) else "mpi"

    def _check(self) -> None:
        if self._kind != "shared":
            return
        if not self._can_share:
            raise ConfigError("--transport shared needs Linux; use --transport mpi")
        for axis in Axis:
            if self._name(axis) in ("mixed", "mpi"):
                raise ConfigError(
                    f"--transport shared: some {axis.group_name} of chips is spread over hosts; "
                    f"use --transport auto"
                )

    def _pieces(self) -> list[_Piece]:
        """Return the memory that processes of this host share, the same list on all of them."""
        pieces = []
        for axis in Axis:
            if self._name(axis) in ("shared", "mixed"):
                for team in self._placement.teams(axis):
                    ranks = self._ranks_on(self._host_of[self.rank], team.ranks)
                    if len(ranks) > 1:
                        pieces.append(_Piece(axis, team, ranks))
        return pieces

    def _files(self, host: Any, pieces: Sequence[_Piece]) -> list[int]:
        """Return the files of this process: of the page, then of its pieces in order."""
        if not self._can_share or len(self._local) == 1:
            return []
        if self.rank != self._local[0]:
            n = 1 + sum(n_files(piece.team) for piece in pieces if self.rank in piece.ranks)
            return fetch(host.bcast(None), self.rank, n)
        offer = Offer()
        host.bcast(offer.address)
        page, files = make_file(), [[make_file() for _ in range(n_files(p.team))] for p in pieces]
        map_file(page, LINE_BYTES * len(self._local))
        for piece, of_piece in zip(pieces, files, strict=True):
            TeamMemory(self._placement, piece.team, piece.ranks, piece.ranks[0], of_piece).prepare()

        def of_rank(rank: int) -> list[int]:
            mine = [f for p, f in zip(pieces, files, strict=True) if rank in p.ranks]
            return [page, *(file for of_piece in mine for file in of_piece)]

        offer.hand_over(self._local[1:], of_rank)
        for piece, of_piece in zip(pieces, files, strict=True):
            if self.rank not in piece.ranks:
                for file in of_piece:
                    os.close(file)
        return of_rank(self.rank)

    def _plane(self, axis: Axis) -> Plane:
        name, placement = self._name(axis), self._placement
        if name == "local":
            return LocalPlane(placement.mesh, axis)
        memories = []
        for team in placement.teams(axis):
            if self.rank in team.ranks:
                memory = self._memories.get((axis, team))
                if memory is None:
                    memory = TeamMemory(placement, team, (self.rank,), self.rank)
                memories.append(memory)
        if name == "shared":
            return SharedPlane(placement, axis, self.rank, memories, self.waits)
        # On one host, no rank needs messages.
        from galaxy_mpi.mesh.message_plane import MessagePlane
        from galaxy_mpi.mesh.message_requests import RequestCache
        from galaxy_mpi.mesh.mixed_plane import MixedPlane

        units: dict[Team, tuple[tuple[int, ...], ...]] = {}
        for memory in memories:
            team = memory.team
            units[team] = tuple((rank,) for rank in team.ranks)
            if name == "mixed":
                hosts = sorted({self._host_of[rank] for rank in team.ranks})
                units[team] = tuple(self._ranks_on(host, team.ranks) for host in hosts)
        cache = RequestCache(self._mpi, self._comm.Dup())
        self._caches.append(cache)
        chosen = MixedPlane if name == "mixed" else MessagePlane
        return chosen(placement, axis, self.rank, memories, self.waits, cache, units)
