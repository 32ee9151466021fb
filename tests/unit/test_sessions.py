"""Folders that a killed launcher has left."""

import os
import subprocess
import time

from galaxy_mpi.cli.sessions import remove_stale_sessions


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
