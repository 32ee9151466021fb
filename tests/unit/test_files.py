"""Files that are written at the end of a run: where they may be, and what becomes of the rest."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from galaxy_mpi import estimate, validate
from galaxy_mpi.checkpoints import cache_folder, locate
from galaxy_mpi.errors import CheckpointError, ConfigError
from galaxy_mpi.files import check_page, check_writable, write_all, write_bytes, write_text

QUICK = ["--layers", "1", "--new-tokens", "1"]


@pytest.mark.parametrize("length", [1, 246, 255])
def test_names_as_long_as_a_name_may_be(tmp_path, length):
    path = tmp_path / ("n" * length)
    check_writable("--json", path)
    write_text(path, "text")
    assert path.read_text() == "text"
    assert os.listdir(tmp_path) == [path.name]


def test_names_that_are_too_long_are_refused_before_the_run(tmp_path):
    for name in ("n" * 256, "n" * 5000):
        with pytest.raises(ConfigError, match="--json .* cannot be written: File name too long"):
            check_writable("--json", tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_and_a_mode_stays_a_mode(tmp_path):
    file, link, dangling = tmp_path / "file", tmp_path / "link", tmp_path / "dangling"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    dangling.symlink_to(tmp_path / "new")
    for path in (link, dangling):
        check_writable("--json", path)
        write_text(path, "text")
        assert path.is_symlink()
        assert path.read_text() == "text"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "link", "new"]


def test_a_new_file_has_the_mode_of_the_users_files(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_link_to_itself_is_a_line(tmp_path):
    path = tmp_path / "loop"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match="--json .* cannot be written"):
        check_writable("--json", path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_text(path, "text")


def test_a_draft_of_somebody_else_is_left_alone(tmp_path, monkeypatch):
    """Whoever guesses a draft's name cannot make us write where his link points to."""
    monkeypatch.setattr("os.urandom", lambda n: b"\0" * n)
    (tmp_path / f".galaxy_mpi-{16 * '0'}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be written: File exists"):
        write_text(tmp_path / "file", "text")
    assert os.listdir(tmp_path) == [f".galaxy_mpi-{16 * '0'}"]


def test_one_file_that_fails_keeps_none_of_the_others_back(tmp_path):
    first, last = tmp_path / "first", tmp_path / "last"
    with pytest.raises(ConfigError, match="/dev/full cannot be written: No space left"):
        write_all([(first, "1"), (Path("/dev/full"), b"2"), (last, b"3")])
    assert (first.read_text(), last.read_text()) == ("1", "3")


def test_half_of_a_surrogate_pair_is_no_traceback(tmp_path):
    write_text(tmp_path / "file", "a\udcffb")
    assert (tmp_path / "file").read_bytes() == b"a\\udcffb"


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("option", ["--json", "--trace", "--profile-csv", "--plot"])
def test_results_are_printed_before_a_write_that_fails(option, capsys):
    assert estimate.main([*QUICK, option, "/dev/full"]) == 2
    out, err = capsys.readouterr()
    assert "decode step" in out
    assert err == (
        "galaxy_mpi: /dev/full cannot be written: No space left on device; name a file in a folder "
        "that exists and can be written to\n"
    )


def test_the_others_print_first_too(capsys):
    assert estimate.main([*QUICK, "--sweep", "links=1,2", "--csv", "/dev/full"]) == 2
    assert "tok/s/user" in capsys.readouterr().out
    assert validate.main(["--json", "/dev/full"]) == 2
    assert "claimed in an earlier write-up" in capsys.readouterr().out


def test_a_page_is_not_written_to_a_file_that_is_named_as_another_kind(tmp_path):
    check_page(tmp_path / "page.html")
    with pytest.raises(ConfigError, match=r"page\.txt is an HTML page; name it page\.html$"):
        check_page(tmp_path / "page.txt")


def test_json_on_standard_output_is_nothing_but_json(capsys):
    assert estimate.main([*QUICK, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/folder")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from galaxy_mpi.checkpoints import cache_folder\n"
        "print(cache_folder())\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == f"{tmp_path}/galaxy_mpi-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/absolute")
    assert str(cache_folder()) == "/absolute/galaxy_mpi"


@pytest.mark.parametrize("model", ["~nobody-has-this-name/x", "x" * 5000, "a\0b"])
def test_names_that_no_file_can_have_are_a_line(model):
    with pytest.raises(CheckpointError, match="no model folder at"):
        locate(model)


def test_a_folder_that_may_not_be_read_is_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        locate(str(tmp_path))
