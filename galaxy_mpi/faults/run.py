"""Plays a case: starts the run, waits until all of it is gone, and looks at what is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.checkpoints import BUILT_IN
from galaxy_mpi.faults.case import BEGAN_VARIABLE, MODEL_VARIABLE, Case, Layout

__all__ = ["LIMIT_S", "Outcome", "golden_tokens", "play"]

LIMIT_S = 90.0
"""After which a run counts as one that hangs, and is ended by force."""

WAIT_TIMEOUT_S = 5
"""Of the runs; see `--wait-timeout` of the commands."""

_MARK = "GALAXY_MPI_FAULT_RUN"
_DECODE = ("--layers", "2", "--max-new-tokens", "4", "--quiet", "--prompt", "Once upon a time")


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    case: Case
    code: int
    gone_s: float
    """From the fault, or the beginning if there was none in a rank, until all was gone."""
    problems: tuple[str, ...]
    errors: str
    """Standard error of the run."""
    last: str
    """The line that says what happened."""


def play(case: Case, golden: Sequence[object] | None, patience: float = 1.0) -> Outcome:
    """Play a case.

    Parameters
    ----------
    case : Case
    golden : sequence or None
        Tokens of a run without fault; None: they are not compared.
    patience : float
        By which times are multiplied, for computers that are busy.
    """
    work = Path(tempfile.mkdtemp(prefix="gf-", dir="/tmp"))
    try:
        for name in ("tmp", "out"):
            (work / name).mkdir()
        shutil.copytree(BUILT_IN["demo"], work / "model")
        try:
            return _play(case, work, golden, patience)
        finally:
            if case.finish:
                subprocess.run(["sh", "-c", _placed(case.finish, work)], check=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def golden_tokens(layout: Layout) -> Sequence[object]:
    """Return the tokens of a run without a fault.

    Raises
    ------
    RuntimeError
        If even that does not end well.
    """
    outcome = play(Case(layout, "none", within_s=LIMIT_S, codes=(0,)), None)
    if outcome.problems:
        raise RuntimeError(f"a run without a fault fails: {outcome.problems}\n{outcome.errors}")
    return list(json.loads(outcome.last))


def _play(case: Case, work: Path, golden: Sequence[object] | None, patience: float) -> Outcome:
    mark = f"{_MARK}={uuid.uuid4().hex}"
    environ = _environ(case, work, mark)
    if case.prepare:
        subprocess.run(["sh", "-c", _placed(case.prepare, work)], check=True, timeout=60)
    words = [_placed(word, work) for word in _words(case)]
    if case.around_all:
        words = ["bash", "-c", _placed(case.around_all, work), "bash", *words]
    began_s = time.time()
    with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as errors:
        job = subprocess.Popen(
            words,
            env=environ,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        hung = _wait(job, mark, LIMIT_S * patience)
    gone_s = time.time()
    said = (work / "stderr").read_text(errors="replace").replace("\0", "")
    printed = (work / "stdout").read_text(errors="replace")
    problems = [f"still there after {LIMIT_S * patience:.0f} s: {hung}"] if hung else []
    began = work / "began"
    if began.exists():
        began_s = float(began.read_text())
    elif case.moment and not case.around_rank:
        problems.append("the fault did not happen")
    if gone_s - began_s > case.within_s * patience:
        problems.append(f"took {gone_s - began_s:.1f} s, not {case.within_s:.0f}")
    code = job.returncode
    if (code not in case.codes) if case.codes else code == 0:
        problems.append(f"exit code {code}, not {' or '.join(map(str, case.codes)) or 'an error'}")
    problems += [
        f"nothing says {pattern!r}" for pattern in case.said if not re.search(pattern, said, re.M)
    ]
    if "Traceback" in said and not case.may_trace:
        problems.append("a traceback")
    tokens, wrong = _report(work, golden)
    problems += wrong
    if case.has_report is not None and case.has_report != (tokens is not None):
        problems.append("no report" if case.has_report else "a report")
    problems += _left(work)
    last = json.dumps(tokens) if golden is None else _last(said)
    return Outcome(case, code, gone_s - began_s, tuple(problems), said + printed[-500:], last)


def _words(case: Case) -> list[str]:
    layout = case.layout
    fault, moment, victim = case.fault, case.moment or "step", case.victim
    if ", " in fault:
        fault = fault.rpartition(", ")[2]
    if not case.moment:
        fault = "none"
    launcher = Path(sys.executable).parent / "mpirun"
    mpirun = [str(launcher) if launcher.exists() else "mpirun", "-n", str(layout.n_ranks)]
    return [
        *(mpirun if layout.n_ranks else ()),
        *case.around_rank,
        sys.executable,
        "-m",
        "galaxy_mpi.faults.rank",
        fault,
        moment,
        victim,
        "--model",
        "{work}/model",
        "--weights-cache",
        "off" if case.moment else "{work}/cache",
        "--json",
        "{out}/report.json",
        "--wait-timeout",
        str(WAIT_TIMEOUT_S),
        *_DECODE,
        *layout.options,
        *case.options,
    ]


def _environ(case: Case, work: Path, mark: str) -> dict[str, str]:
    name, _, value = mark.partition("=")
    environ = {
        **{n: v for n, v in os.environ.items() if not n.startswith(("SLURM_", "XDG_"))},
        "TMPDIR": str(work / "tmp"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_btl_sm_backing_directory": str(work / "tmp"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        BEGAN_VARIABLE: str(work / "began"),
        MODEL_VARIABLE: str(work / "model"),
        name: value,
        **case.layout.environ,
    }
    for variable, text in case.environ.items():
        if text is None:
            environ.pop(variable, None)
        else:
            environ[variable] = _placed(text, work)
    return environ


def _placed(text: str, work: Path) -> str:
    return text.replace("{work}", str(work)).replace("{out}", str(work / "out"))


def _wait(job: "subprocess.Popen[bytes]", mark: str, limit_s: float) -> str:
    """Wait until a run is gone; end it, and return what was left, if it is not in time."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if job.poll() is not None and not _processes(mark):
            return ""
        time.sleep(0.05)
    left = _processes(mark)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()
    return ", ".join(left.values()) or "the launcher"


def _processes(mark: str) -> dict[int, str]:
    """Return processes that have the mark of this run in their environment, with their states."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0].decode()
        except OSError:
            continue
        if state != "Z":
            found[int(folder.name)] = f"{words[:60]}({state})"
    return found


def _report(
    work: Path, golden: Sequence[object] | None
) -> tuple[Sequence[object] | None, list[str]]:
    """Return the tokens of the report, if there is one, and what is wrong with it."""
    path = work / "out" / "report.json"
    if not path.exists():
        return None, []
    try:
        report = json.loads(path.read_text())
        tokens, is_interrupted = list(report["tokens"]), bool(report["interrupted"])
    except (ValueError, KeyError, TypeError) as error:
        return None, [f"a report that is not whole ({error!r})"]
    if golden is None or tokens == list(golden):
        return tokens, []
    # The launcher's request to end (SIGTERM) lets rank 0 report what there is.
    if is_interrupted and _begins(tokens, golden):
        return None, []
    return tokens, ["other tokens than without the fault"]


def _begins(tokens: Sequence[object], golden: Sequence[object]) -> bool:
    """Return whether each user's tokens are the first of those of the run without a fault."""
    return len(tokens) == len(golden) and all(
        isinstance(mine, list) and isinstance(theirs, list) and mine == theirs[: len(mine)]
        for mine, theirs in zip(tokens, golden, strict=True)
    )


def _left(work: Path) -> list[str]:
    """Return what should not be left over: our drafts, sockets and segments."""
    places = [work / "out", work / "tmp", work / "cache"]
    files = [file for place in places for file in place.rglob("*") if not file.is_dir()]
    ours = [file.name for file in files if file.name.startswith((".galaxy_mpi-", "galaxy_mpi"))]
    return [f"left behind: {' '.join(sorted(ours))}"] if ours else []


def _last(errors: str) -> str:
    """Return the line that says what happened: ours, or the launcher's about how a rank ended."""
    lines = [line.strip() for line in errors.splitlines() if line.strip(" -")]
    for mine in ("galaxy_mpi: ", "Timeout"):
        told = [
            line
            for line in lines
            if line.startswith(mine) and not re.search(r"failed:$|asked to end", line)
        ]
        if told:
            return told[-1]
    kinds = [
        line for line in lines if re.match(r"[A-Za-z.]*(Error|Interrupt|Exit|Exception):", line)
    ]
    ends = [line for line in lines if "exited on signal" in line or "exited with" in line]
    return (kinds or ends or lines or ["-"])[-1]
