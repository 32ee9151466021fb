"""Barrier, signals and files of processes on one host; real processes, made by fork."""

import mmap
import os
import random
import resource
import socket
import threading
import time

import numpy as np
import pytest

from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.barrier import BARRIER_BYTES, SIGNAL_BYTES, Barrier, Signal
from galaxy_mpi.mesh.host_memory import (
    GrowingMemory,
    Offer,
    can_share_memory,
    fetch,
    make_file,
    map_file,
)
from galaxy_mpi.mesh.placement import Placement
from galaxy_mpi.mesh.team_memory import TeamMemory, n_files
from galaxy_mpi.mesh.waits import DIGEST_BYTES, LINE_BYTES, Waits, padded

pytestmark = pytest.mark.skipif(not can_share_memory(), reason="no shared memory on this system")


def common_memory(n_bytes):
    return np.frombuffer(mmap.mmap(-1, n_bytes), np.uint8)


def in_processes(size, play):
    """Run ``play(index)`` in forked processes; each must return True."""
    children = []
    for index in range(size):
        child = os.fork()
        if not child:
            try:
                os._exit(0 if play(index) else 1)
            finally:
                os._exit(2)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_nobody_leaves_before_all_have_come(size):
    memory = common_memory(BARRIER_BYTES + 8 * size)
    Barrier(memory[:BARRIER_BYTES]).prepare(size)

    def play(index):
        barrier = Barrier(memory[:BARRIER_BYTES])
        came, chance = memory[BARRIER_BYTES:].view(np.int64), random.Random(index)
        for turn in range(1, 400):
            if chance.random() < 0.03:
                time.sleep(chance.random() * 0.002)
            came[index] = turn
            barrier.wait()
            if came.min() < turn or came.max() > turn + 1:
                return False
        return True

    assert in_processes(size, play) == [0] * size


def test_notices_are_counted():
    memory = common_memory(2 * SIGNAL_BYTES + 8)
    there, back = Signal(memory[:SIGNAL_BYTES]), Signal(memory[SIGNAL_BYTES : 2 * SIGNAL_BYTES])
    there.prepare()
    back.prepare()
    ball = memory[2 * SIGNAL_BYTES :].view(np.int64)

    def play(index):
        for turn in range(300):
            if index:
                there.take()
                if ball[0] != turn + 1:
                    return False
                back.post()
            else:
                ball[0] += 1
                there.post()
                back.take()
        for _ in range(5):
            (there.take if index else there.post)()
        return True

    assert in_processes(2, play) == [0, 0]


def test_memory_grows_and_views_of_it_stay_good():
    for file in (make_file(), None):
        memory = GrowingMemory(file)
        small = memory.at_least(100)
        small[:] = 7
        large = memory.at_least(10_000_000)
        assert len(large) == 10_000_000
        if file is not None:
            assert (large[:100] == 7).all()
            large[:100] = 8
            assert (small == 8).all()
            other = map_file(file, 50)
            assert (other == 8).all()
            assert os.fstat(file).st_size >= 10_000_000
        assert (small == (7 if file is None else 8)).all()
        memory.close()
        assert len(small) == 100


def test_files_are_handed_over_and_strangers_are_ignored():
    offer, files, got, failed = (
        Offer(),
        {3: [make_file()], 5: [make_file() for _ in range(230)]},
        {},
        [],
    )
    name, secret = offer.address

    def call(said):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.connect(name)
            line.sendall(said)
            line.settimeout(5)
            try:
                failed.append(line.recv(1) == b"")
            except OSError:
                failed.append(True)

    # Without the secret; too little of it; an unknown rank; then those who are meant.
    for said in (bytes(20), b"x", secret + (9).to_bytes(4, "little")):
        threading.Thread(target=call, args=(said,)).start()
    threads = [
        threading.Thread(target=lambda r=r: got.update({r: fetch(offer.address, r, len(files[r]))}))
        for r in files
    ]
    for thread in threads:
        thread.start()
    offer.hand_over(list(files), files.__getitem__, timeout_s=30)
    for thread in threads:
        thread.join(30)
    assert {rank: len(mine) for rank, mine in got.items()} == {3: 1, 5: 230}
    os.write(files[5][229], b"the same file")
    assert os.pread(got[5][229], 20, 0) == b"the same file"
    for descriptor in [d for each in (*files.values(), *got.values()) for d in each]:
        os.close(descriptor)


def test_nobody_waits_for_ever_for_files():
    with pytest.raises(CollectiveError, match=r"ranks \[1, 2\] did not fetch"):
        Offer().hand_over([1, 2], lambda rank: [], timeout_s=0.05)
    with pytest.raises(CollectiveError, match="no shared memory from this host's first rank"):
        fetch(("\0galaxy_mpi.nobody", b"secret"), 1, 1)
    silent = Offer()
    with pytest.raises(CollectiveError, match="first rank: timed out"):
        fetch(silent.address, 1, 1, timeout_s=0.05)


def test_more_memory_than_there_is_is_refused_before_the_kernel_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: asked.append(arguments))
    file = make_file()
    with pytest.raises(CollectiveError, match=f"no shared memory of {1 << 60} bytes"):
        map_file(file, 1 << 60)
    os.close(file)
    assert not asked


def test_a_limit_of_file_sizes_is_an_error():
    file = make_file()

    def play(index):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with pytest.raises(CollectiveError, match="no shared memory of 131072 bytes"):
            map_file(file, 1 << 17)
        return len(map_file(file, 1 << 16)) == 1 << 16

    assert in_processes(1, play) == [0]
    os.close(file)


@pytest.mark.parametrize(
    ("mesh", "chips_per_rank", "axis", "teams"),
    [
        ("2x2", 1, Axis.COLUMN, [((0, 2), 1), ((1, 3), 1)]),
        ("8x4", 16, Axis.COLUMN, [((0, 1), 4)]),
        ("8x4", 16, Axis.ROW, [((0,), 4), ((1,), 4)]),
        (
            "8x4",
            2,
            Axis.COLUMN,
            [((0, 2, 4, 6, 8, 10, 12, 14), 2), ((1, 3, 5, 7, 9, 11, 13, 15), 2)],
        ),
        # Blocks that are no rectangles: three pairs of processes.
        ("2x3", 2, Axis.COLUMN, [((0, 1), 1), ((0, 2), 1), ((1, 2), 1)]),
    ],
)
def test_teams(mesh, chips_per_rank, axis, teams):
    placement = Placement(Mesh.parse(mesh), chips_per_rank)
    found = [(team.ranks, len(team.groups)) for team in placement.teams(axis)]
    assert found == teams


def test_the_parts_of_a_team_s_memory_do_not_overlap():
    placement = Placement(Mesh(4, 2), 2)
    team = placement.teams(Axis.COLUMN)[0]
    files = [make_file() for _ in range(n_files(team))]
    first = TeamMemory(placement, team, team.ranks, 0, files)
    first.prepare()
    others = [TeamMemory(placement, team, team.ranks, rank, files) for rank in team.ranks]
    for turn in range(2):
        for rank, memory in enumerate(others):
            memory.digests[turn][1][:] = bytes([16 * turn + rank + 1]) * (2 * DIGEST_BYTES)
    first.came[3] = 77
    first.signal(0, 3).post()
    others[3].signal(0, 3).take()
    for memory in others:
        for turn, (digests, _) in enumerate(memory.digests):
            assert digests.tobytes() == b"".join(
                bytes([16 * turn + rank + 1]) * (2 * DIGEST_BYTES) for rank in range(4)
            )
        assert memory.came.tolist() == [0, 0, 0, 77]
        assert memory.missing(1) == [0, 1, 2]
    first.slot(1, 2, 64)[:] = 9
    assert (others[2].slot(1, 2, 64) == 9).all()
    assert (others[2].slot(0, 2, 64) == 0).all()


def test_a_page_says_who_waits_for_what():
    page = np.zeros(3 * LINE_BYTES, np.uint8)
    a, b, c = (Waits(r, (0, 1, 2), page, names="chip {}".format, is_whole=True) for r in range(3))
    for waits, text in ((a, "all_gather QKV"), (b, "all_reduce WO")):
        waits.text[:] = padded(text)
        waits.count[0] += 1
    assert (a.doing(1), a.doing(2), a.standstill(5.0)) == ("all_reduce WO", "", "")
    with c.patiently("a report"):
        assert c.standstill(5.0) == (
            "all ranks wait, and none has moved for 5 s: chip 0 in all_gather QKV; "
            "chip 1 in all_reduce WO; chip 2 in a report"
        )
    assert c.number == 2
    b.count[0] += 1
    assert (a.doing(1), a.last(1)) == ("", "all_reduce WO")
