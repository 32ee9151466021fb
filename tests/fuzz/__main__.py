"""Damage inputs of a format and count what escapes: ``python -m tests.fuzz FORMAT``."""

import argparse
import hashlib
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.formats import FORMATS
from tests.fuzz.play import mutations, play

MEMORY_BYTES = 12 * 2**30


def main() -> int:
    """Return 1 if anything escaped but the project's own errors."""
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("formats", nargs="+", metavar="FORMAT", help=f"all, {', '.join(FORMATS)}")
    parser.add_argument("--mutations", type=int, default=10_000, metavar="N", help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where inputs that escape are put")
    arguments = parser.parse_args()
    names = list(FORMATS) if "all" in arguments.formats else arguments.formats
    for name in names:
        if name not in FORMATS:
            parser.error(f"no format {name!r}; choose {', '.join(FORMATS)}")
    logging.getLogger("galaxy_mpi").setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    n_escaped = 0
    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            what = FORMATS[name](Path(folder) / "input")
            what.play(what.good) if what.good else None
            outcome = play(what, mutations(what, arguments.mutations, arguments.seed))
        n_escaped += len(outcome.escaped)
        print(
            f"{name:<18} {arguments.mutations} mutations: {outcome.n_accepted} accepted, "
            f"{outcome.n_refused} refused, {len(outcome.escaped)} escaped "
            f"({time.perf_counter() - began:.0f} s)",
            flush=True,
        )
        for kind, n in outcome.kinds.most_common(8):
            print(f"  {n:>6}  {kind}")
        kinds = set()
        for content, trace in outcome.escaped if arguments.keep else ():
            kind = trace.strip().splitlines()[-1][:60]
            if kind not in kinds:  # one of each
                kinds.add(kind)
                folder_of = arguments.keep / name
                folder_of.mkdir(parents=True, exist_ok=True)
                stem = hashlib.sha256(content).hexdigest()[:12]
                (folder_of / stem).write_bytes(content)
                print(f"\n{folder_of / stem}\n{trace[:4000]}")
    return 1 if n_escaped else 0


if __name__ == "__main__":
    sys.exit(main())
