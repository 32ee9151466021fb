"""The fast part of the laboratory of faults, and whether the laboratory finds anything."""

import json
import os
from dataclasses import replace

import pytest

from galaxy_mpi.faults.case import Case
from galaxy_mpi.faults.run import golden_tokens, play
from galaxy_mpi.faults.table import ALONE, LAYOUTS, MEMORY, cases

PATIENCE = 4.0
"""Times are those of a computer that does nothing else."""

QUICK = [case for case in cases() if case.is_quick]


@pytest.fixture(scope="module")
def golden():
    return {layout.name: golden_tokens(layout) for layout in (*LAYOUTS, ALONE)}


def test_every_case_has_a_name_of_its_own_and_there_are_hundreds():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    assert len(names) > 300


@pytest.mark.parametrize("case", QUICK, ids=[case.name for case in QUICK])
def test_a_fault_ends_as_it_should(case, golden):
    if case.needs_root and os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    outcome = play(case, golden[case.layout.name], PATIENCE)
    assert outcome.problems == (), outcome.errors


WRONG = [
    (Case(MEMORY, "none", "step", "1", within_s=60.0), "exit code 0, not an error"),
    (Case(MEMORY, "none", "step", "1", 60.0, (0,), said=("never",)), "nothing says"),
    (Case(MEMORY, "none", "step", "1", 0.0, (0,)), "took"),
    (Case(MEMORY, "raise", "step", "1", 60.0, (1,)), "a traceback"),
    (Case(MEMORY, "kill", "step", "1", 60.0, (137,), has_report=True), "no report"),
    (
        Case(
            MEMORY,
            "none",
            within_s=60.0,
            codes=(0,),
            prepare="echo {{ >{out}/report.json",
            options=("--json", "{work}/other.json"),
        ),
        "not whole",
    ),
    (
        Case(MEMORY, "none", within_s=60.0, codes=(0,), prepare="touch {out}/.galaxy_mpi-draft"),
        "left behind",
    ),
]


@pytest.mark.parametrize(("case", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_the_laboratory_finds(case, problem, golden):
    outcome = play(case, golden["memory"])
    assert [found for found in outcome.problems if problem in found], outcome


def test_the_laboratory_finds_other_tokens(golden):
    case = Case(MEMORY, "none", within_s=60.0, codes=(0,), options=("--prompt", "Never"))
    assert "other tokens than without the fault" in play(case, golden["memory"]).problems


@pytest.mark.parametrize(
    ("tokens", "is_interrupted", "problem"),
    [
        ([[5], []], True, ""),
        ([[5], []], False, "other tokens"),
        ([[6], []], True, "other tokens"),
        ([[5]], True, "other tokens"),
    ],
)
def test_an_interrupted_report_has_the_first_tokens(tokens, is_interrupted, problem):
    report = json.dumps({"tokens": tokens, "interrupted": is_interrupted})
    case = Case(
        ALONE,
        "none",
        within_s=60.0,
        codes=(0,),
        around_all=f"echo '{report}' >{{out}}/report.json",
    )
    problems = " ".join(play(case, [[5, 7], [8, 9]]).problems)
    assert problems == problem or (problem and problems.startswith(problem))


def test_the_laboratory_finds_and_ends_a_run_that_hangs(golden):
    case = replace(
        Case(MEMORY, "sleep", "step", "1", within_s=1.0), options=("--wait-timeout", "0")
    )
    outcome = play(case, golden["memory"], 0.1)
    assert outcome.problems[0].startswith("still there after 9 s")
