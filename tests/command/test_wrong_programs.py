"""A user's program that is another one on one chip is told in one line, by one rank."""

import re
from pathlib import Path

import pytest

from tests.command.decode_command import nobody_is_left, play

PROGRAMS = Path(__file__).with_name("wrong_programs.py")

USUAL = r"all_reduce FF2 within a column, bfloat8_b \(4, 128\), op w2 of layer 1"
SECOND = USUAL.replace("FF2", "SECOND")
NEXT = r"all_gather LAYERNORM within a row, bfloat16 \(4, 1\), op final_norm of the head"

LAYOUTS = [(), ("--transport", "mpi", "--chips-per-rank", "2"), ("--chips-per-rank", "4")]


def run(layout, name, *more):
    n_ranks = 4 // int(layout[-1] if layout else 1)
    start = ("mpirun", "-n", str(n_ranks)) if n_ranks > 1 else ()
    short = ("--mesh", "2x2", "--layers", "2", "--batch", "4", "--max-new-tokens", "3", "--quiet")
    decode = ("python", "-m", "galaxy_mpi.decode", *short, *layout, "--wait-timeout", "10")
    return play([*start, *decode, *more, "--system", f"{PROGRAMS}:{name}"])


RINGS = [
    ("--collectives", "ring", "--chips-per-rank", "1"),
    ("--collectives", "ring", "--transport", "mpi", "--chips-per-rank", "1"),
]


@pytest.mark.parametrize(
    "layout",
    [*LAYOUTS, *RINGS],
    ids=["ranks", "messages", "one process", "ring", "ring of messages"],
)
@pytest.mark.parametrize(
    ("name", "its", "usual"),
    [
        ("DTYPE", USUAL.replace("bfloat8_b", "bfloat4_b"), USUAL),
        ("SHAPE", USUAL.replace("128", "64"), USUAL),
        ("OP", USUAL.replace("reduce", "gather"), USUAL),
        ("ORDER", SECOND, USUAL),
        ("LEFT_OUT", f"({NEXT}|nothing more)", SECOND),
    ],
)
@pytest.mark.parametrize("check", [(), ("--check",)], ids=["", "check"])
def test_both_chips_and_what_they_exchange_are_told_before_a_step_runs(
    layout, check, name, its, usual
):
    ended = run(layout, name, *check)
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("galaxy_mpi: "))
    does = "(exchanges|is in)"
    pairs = [(r"chip \(0, 1\)", its), (r"chip \(\d, \d\)", usual)]
    told = [f"{a} {does} {x}, but {b} {does} {y}" for (a, x), (b, y) in (pairs, pairs[::-1])]
    assert any(re.search(one, line) for one in told), line
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
def test_a_collective_that_is_crossed_twice_is_told(layout):
    ended = run(layout, "AGAIN")
    assert ended.returncode == 2
    told = [line for line in ended.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    wanted = (
        r"op w2 of layer 0, chip \(\d, \d\): its `bind` calls `cross\(\)` of one collective twice"
    )
    assert any(re.search(wanted, line) for line in told), ended.stderr
    assert "Traceback" not in ended.stderr
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
def test_a_row_of_another_chip_that_is_read_too_late_is_found_in_every_layout(layout):
    ended = run(layout, "LATE", "--check", "--precision", "float32")
    assert ended.returncode != 0
    assert re.search(r"galaxy_mpi: op gate_up of layer 0, chip .* not finite", ended.stderr)
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=["ranks", "messages"])
def test_an_error_of_all_ranks_is_told_once(layout):
    ended = run(layout, "RAISES")
    assert ended.returncode == 1
    assert ended.stderr.count("IndexError: list index out of range") == 1
    assert "galaxy_mpi: rank 0 failed:" in ended.stderr
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
def test_an_op_that_leaves_the_program_is_an_error_whatever_its_code(layout):
    ended = run(layout, "LEAVES")
    assert ended.returncode == 1
    assert "SystemExit: 0" in ended.stderr
    assert ended.stdout == ""
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
def test_the_same_program_on_all_chips_runs(layout):
    ended = run(layout, "NOTHING")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
@pytest.mark.parametrize(("name", "chips"), [("SKIPPED", r"\(0, 1\)"), ("ALL_SKIP", r"\(\d, \d\)")])
def test_a_chip_that_makes_a_collective_and_does_not_cross_it_is_told(layout, name, chips):
    ended = run(layout, name)
    assert ended.returncode == 2
    told = [line for line in ended.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    wanted = rf"op w2 of layer 1, chip {chips}: its `bind` .* makes the collective all_reduce \w+ "
    assert any(re.search(rf"{wanted}.*does not call its `cross\(\)`", line) for line in told), told
    assert "Traceback" not in ended.stderr
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "COLUMN",
            r"exchanges all_reduce FF2 within a column, bfloat4_b \(4, 128\), but its `wires` name "
            r"all_reduce FF2 within a column, bfloat8_b \(4, 128\)",
        ),
        (
            "COLUMN_LEFT_OUT",
            r"does not exchange all_reduce SECOND within a column, .*, which its `wires` name",
        ),
    ],
)
def test_a_column_that_exchanges_something_else_is_told(layout, name, wanted):
    """Its chips agree with each other, and chip (0, 0), which is charged, is none of them."""
    ended = run(layout, name)
    assert ended.returncode == 2
    told = [line for line in ended.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    op = r"op w2 of layer 1, chip \(\d, 1\): its `bind` \(Changed\)"
    # Chips of one process that send their messages together are compared before that.
    its = USUAL.replace("bfloat8_b", "bfloat4_b")
    beside = rf"chip \(\d, 1\) is in {its}, but chip \(\d, 0\) is in {USUAL}"
    assert any(re.search(f"{op} {wanted}|{beside}", line) for line in told), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert nobody_is_left()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["ranks", "messages", "one process"])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CHARGED", "op w2 of layer 0 charges device time for all_reduce SECOND within a column"),
        (
            "NARROW",
            r"op w2 of layer 0 exchanges all_reduce FF2 within a column, bfloat4_b \(4, 128\), but "
            r"charges device time for all_reduce FF2 within a column, bfloat8_b \(4, 128\)",
        ),
        ("LINKS", r"exchanges .*\(4, 128\), links 1, but charges .*\(4, 128\), links \w+; fix"),
        (
            "UNCHARGED",
            "op w2 of layer 0 exchanges all_reduce SECOND .* charges no device time for it",
        ),
        ("TWICE", "op w2 of layer 0 exchanges all_reduce FF2 .* 2 times, but charges .* for 1"),
    ],
)
def test_an_op_whose_exchanges_and_charges_differ_is_told_before_a_step_runs(layout, name, wanted):
    ended = run(layout, name)
    assert ended.returncode == 2
    told = [line for line in ended.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert len(told) == 1, ended.stderr
    assert re.search(wanted, told[0]), told
    assert "fix the op, whose `bind` and `charges` must agree" in told[0]
    assert nobody_is_left()
