"""Folders and files that a killed launcher has left."""

import mmap
import os
import socket
import subprocess
import time

from galaxy_mpi.cli.sessions import remove_stale_segments, remove_stale_sessions


def test_only_old_folders_of_launchers_that_have_ended_are_removed(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    names = [f"ompi.{ended.pid}", f"ompi.{os.getpid()}", "ompi.x", f"prte.{ended.pid}"]
    for name in names:
        (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / "ompi.4000000").mkdir()  # young
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ompi.4000001").symlink_to(tmp_path / "elsewhere")
    long_ago = time.time() - 3600
    for name in names:
        os.utime(tmp_path / name, (long_ago, long_ago))
    os.utime(tmp_path / "ompi.4000001", (long_ago, long_ago), follow_symlinks=False)
    assert remove_stale_sessions(tmp_path) == [names[0]]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names[1:], "ompi.4000000", "ompi.4000001", "elsewhere"}
    assert remove_stale_sessions(tmp_path / "nowhere") == []


def test_only_old_segments_of_this_host_that_nobody_maps_are_removed(tmp_path):
    host = socket.gethostname()
    stale, mapped, young = (f"sm_segment.{host}.0.8854000{n}.{n}" for n in range(3))
    others = ["sm_segment.another-host.0.88540001.0", f"sm_segment.{host}", "report.json"]
    long_ago = time.time() - 3600
    for name in (stale, mapped, young, *others):
        (tmp_path / name).write_bytes(bytes(4096))
        if name != young:
            os.utime(tmp_path / name, (long_ago, long_ago))
    (tmp_path / f"sm_segment.{host}.0.88540009.9").symlink_to(tmp_path / "report.json")
    with (tmp_path / mapped).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert remove_stale_segments(tmp_path) == [stale]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mapped, young, *others, f"sm_segment.{host}.0.88540009.9"}
    assert remove_stale_segments(tmp_path) == [mapped]
    assert remove_stale_segments(tmp_path / "nowhere") == []
