"""Check or renew the golden files: ``python -m tests.pins --check`` or ``--update``."""

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

import argparse  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from tests.pins.commands import Inputs, run_decode, run_decode_on_ranks  # noqa: E402
from tests.pins.golden import FILES, check, differences  # noqa: E402


def main() -> int:
    """Return 1 if a case differs from what is pinned."""
    parser = argparse.ArgumentParser("tests.pins", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare all cases")
    what.add_argument("--update", action="store_true", help="write what the commands say now")
    what.add_argument("--list", action="store_true", help="print the cases")
    parser.add_argument("--file", default="", metavar="PART", help="only files with this in them")
    parser.add_argument("--only", default="", metavar="PART", help="only cases with this in them")
    parser.add_argument("--mpirun", action="store_true", help="play decode runs on real ranks")
    arguments = parser.parse_args()
    n_cases = n_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(Path(folder), run_decode_on_ranks if arguments.mpirun else run_decode)
        for golden in FILES:
            chosen = [case for case in golden.cases if arguments.only in case]
            if arguments.file not in golden.name:
                continue
            begin_s, pinned = time.monotonic(), golden.read()
            for case in chosen:
                n_cases += 1
                if arguments.list:
                    print(f"{golden.name}: {case}")
                elif arguments.update:
                    found = golden.run(case, inputs)
                    changes = ["new"] if case not in pinned else differences(pinned[case], found)
                    first = next(iter(changes), None)
                    if first is not None:
                        n_wrong += 1
                        print(f"{golden.name}: {case}: {first}", flush=True)
                    pinned[case] = found
                else:
                    try:
                        check(golden, case, inputs)
                    except AssertionError as error:
                        n_wrong += 1
                        print(f"{golden.name}: {error}", flush=True)
            if arguments.update:
                golden.write(pinned)
            if not arguments.list:
                print(f"{golden.name}: {len(chosen)} cases, {time.monotonic() - begin_s:.1f} s")
    if arguments.update:
        print(f"{n_cases} cases written, {n_wrong} of them new or changed")
    elif not arguments.list:
        print(f"{n_cases} cases, {n_wrong} differ")
    return int(n_wrong > 0 and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
