"""Cases in which something around the run is wrong: files, folders, limits, closed streams."""

from collections.abc import Iterator

from galaxy_mpi.faults.case import Case, Layout

__all__ = ["streams", "surroundings"]


def surroundings(layout: Layout) -> Iterator[Case]:
    """Return cases that all begin well and have surroundings as users, alas, have them."""
    yield from streams(layout)
    yield from _outputs(layout)
    yield from _limits(layout)
    yield from _folders(layout)


def _of_rank(line: str) -> tuple[str, ...]:
    return ("sh", "-c", line, "sh")


def streams(layout: Layout) -> Iterator[Case]:
    """Return cases in which standard streams are closed, full or never read."""
    for name, line, codes, report in (
        ("| head -1", 'set -o pipefail; "$@" | head -1', (0, 141), None),
        ("2>&-", '"$@" 2>&-', (0,), True),
        (">&-", '"$@" >&-', (0, 1, 2), None),
        ("<&-", '"$@" <&-', (0,), True),
        (">/dev/full", '"$@" >/dev/full', (0, 1, 2), None),
        ("2>/dev/full", '"$@" 2>/dev/full', (0,), True),
    ):
        yield Case(
            layout,
            f"all {name}",
            within_s=60.0,
            codes=codes,
            around_all=line,
            has_report=report,
            is_quick=name == "| head -1" or (name == ">&-" and not layout.n_ranks),
        )
    for name, codes in ((">&-", (0, 1, 2)), (">/dev/full", (1, 2)), ("2>&-", (0,)), ("<&-", (0,))):
        yield Case(
            layout,
            f"rank {name}",
            within_s=60.0,
            codes=codes,
            around_rank=_of_rank(f'"$@" {name}'),
            has_report=True if codes == (0,) else None,
            said=("galaxy_mpi: standard output cannot be written: No space",)
            if name == ">/dev/full"
            else (),
            is_quick=name == ">/dev/full",
        )
    for name in ("2>&-", ">/dev/full 2>&1") if layout.n_ranks else ():
        yield Case(
            layout,
            f"rank {name}, raise",
            "step",
            "1",
            codes=(1,),
            around_rank=_of_rank(f'"$@" {name}'),
            may_trace=True,
            is_quick=name == "2>&-",
        )


def _outputs(layout: Layout) -> Iterator[Case]:
    for option in ("--json", "--trace", "--trace-host", "--profile-csv"):
        yield Case(
            layout,
            f"{option} /dev/full",
            within_s=60.0,
            codes=(2,),
            options=(option, "/dev/full"),
            said=("galaxy_mpi: /dev/full cannot be written: No space left on device",),
            is_quick=option == "--json",
        )
        yield Case(
            layout,
            f"{option} on a full disk",
            within_s=60.0,
            codes=(2,),
            prepare="mkdir {work}/disk && mount -t tmpfs -o size=64k tmpfs {work}/disk; "
            "head -c 99999 /dev/zero >{work}/disk/full 2>&-; true",
            finish="umount {work}/disk",
            options=(option, "{work}/disk/file"),
            said=("galaxy_mpi: .*cannot be written: No space left on device",),
            needs_root=True,
        )
        yield Case(
            layout,
            f"{option} in no folder",
            within_s=60.0,
            codes=(2,),
            options=(option, "{work}/none/file"),
            said=("^galaxy_mpi: .*cannot be written: No such file",),
            has_report=False,
        )
    yield Case(
        layout,
        "a shard cache on a full disk",
        within_s=60.0,
        codes=(0,),
        prepare="mkdir {work}/disk && mount -t tmpfs -o size=64k tmpfs {work}/disk",
        finish="umount {work}/disk",
        options=("--weights-cache", "{work}/disk/cache"),
        has_report=True,
        needs_root=True,
    )
    yield Case(
        layout,
        "a shard cache that is a file",
        within_s=60.0,
        codes=(0, 2),
        prepare="echo > {work}/cache",
        options=("--weights-cache", "{work}/cache"),
    )


def _limits(layout: Layout) -> Iterator[Case]:
    for limit, codes in (
        ("-n 256", (0,)),
        ("-n 24", ()),
        ("-n 12", ()),
        ("-v 400000", ()),
        ("-v 900000", (0, 1, 2)),
        ("-f 0", (0, 1, 2)),
        ("-s 256", (0,)),
        ("-c 0", (0,)),
    ):
        yield Case(
            layout,
            f"rank ulimit {limit}",
            within_s=60.0,
            codes=codes,
            around_rank=_of_rank(f'ulimit {limit}; exec "$@"'),
            has_report=True if codes == (0,) else None,
            may_trace=limit in ("-n 12", "-n 24", "-v 400000"),
            is_quick=limit == "-n 24",
        )
    yield Case(
        layout,
        "a /dev/shm of 64 KiB",
        within_s=60.0,
        codes=(0,),
        around_all="unshare --mount sh -c "
        '\'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"\' sh "$@"',
        has_report=True,
        needs_root=True,
    )
    yield Case(
        layout,
        "mpirun ulimit -n 64",
        within_s=60.0,
        codes=(0,),
        around_all='ulimit -n 64; "$@"',
        has_report=True,
    )


def _folders(layout: Layout) -> Iterator[Case]:
    odd = "{work}/a b \u00e9\u4e2d"
    for name, environ, prepare in (
        ("no HOME", {"HOME": None}, ""),
        ("a HOME that is not there", {"HOME": "/nonexistent"}, ""),
        ("a read-only HOME", {"HOME": "/proc"}, ""),
        ("a read-only cache", {"XDG_CACHE_HOME": "/proc/1"}, ""),
        ("a HOME that is odd", {"HOME": odd}, f"mkdir '{odd}'"),
        ("a TMPDIR that is odd", {"TMPDIR": odd}, f"mkdir '{odd}'"),
        ("a TMPDIR that is not there", {"TMPDIR": "{work}/none"}, ""),
        (
            "a TMPDIR of 200 letters",
            {"TMPDIR": f"{{work}}/{'t' * 200}"},
            f"mkdir {{work}}/{'t' * 200}",
        ),
        ("LANG=C", {"LANG": "C", "LC_ALL": "C"}, ""),
        ("no PATH but ours", {"LD_LIBRARY_PATH": None}, ""),
        ("a stray SLURM_PROCID", {"SLURM_PROCID": "1"}, ""),
    ):
        yield Case(
            layout,
            name,
            within_s=60.0,
            # Open MPI's own launcher needs a HOME.
            codes=() if name == "no HOME" else (0,),
            environ=dict(environ),
            prepare=prepare,
            has_report=None if "TMPDIR" in name or name == "no HOME" else True,
            is_quick=name in ("a TMPDIR that is odd", "a read-only HOME"),
        )
    yield Case(
        layout,
        "an odd name for the report",
        within_s=60.0,
        codes=(0,),
        prepare=f"mkdir '{odd}'",
        options=("--json", f"{odd}/\u00fc x.json"),
        environ={"LANG": "C", "LC_ALL": "C"},
    )
    yield Case(
        layout,
        "an odd name for the model",
        within_s=60.0,
        codes=(0,),
        prepare=f"cp -r {{work}}/model '{odd}'",
        options=("--model", odd),
        has_report=True,
    )
    yield Case(
        layout,
        "a folder that is deleted",  # which Open MPI's launcher refuses
        within_s=60.0,
        said=("current working directory",),
        around_all='mkdir {work}/gone && cd {work}/gone && rmdir {work}/gone && "$@"',
    )
