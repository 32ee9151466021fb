"""Device time, memory, traces and comparisons are what is pinned, to the last bit.

Renewed by ``python -m tests.pins --update`` only; see tests/golden/README.md.
"""

import math

import pytest

from tests.pins.commands import Inputs
from tests.pins.golden import FILES, check, differences

OF_DEVICE = [golden for golden in FILES if not golden.name.startswith(("logits", "tokens"))]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("pins"))


@pytest.mark.parametrize(
    ("golden", "case"),
    [pytest.param(g, case, id=f"{g.name}: {case}") for g in OF_DEVICE for case in g.cases],
)
def test_what_the_device_does_is_what_is_pinned(golden, case, inputs):
    check(golden, case, inputs)


@pytest.mark.parametrize("golden", FILES, ids=lambda golden: golden.name)
def test_every_case_is_pinned_and_no_other(golden):
    assert list(golden.read()) == list(golden.cases)
    assert len(set(golden.cases)) == len(golden.cases)


def test_one_bit_more_is_a_difference_and_named():
    pinned = {"step_s": 0.1, "by_op_s": {"add": 0.25, "norm": 0.5}, "tokens": [[1, 2]]}
    assert list(differences(pinned, pinned)) == []
    longer = math.nextafter(0.25, 1.0)
    found = {"step_s": 0.1, "by_op_s": {"add": longer, "norm": 0.5}, "tokens": [[1, 3]]}
    assert list(differences(pinned, found)) == [
        f"by_op_s.add: {longer!r}, was 0.25",
        "tokens[0][1]: 3, was 2",
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": 1, "b": 2}, "c: gone, was 0.0"),
        ({"a": 1, "b": 2, "c": 0.0, "d": 4}, "d: new, 4"),
        ({"a": 1, "b": 2, "c": -0.0}, "c: -0.0, was 0.0"),
        ({"a": 1, "b": 2, "c": 0}, "c: 0, was 0.0"),
        ({"b": 2, "a": 1, "c": 0.0}, "report: the same keys in another order, ['b', 'a', 'c']"),
        ([1], "report: [1], was {'a': 1, 'b': 2, 'c': 0.0}"),
    ],
)
def test_what_is_gone_new_or_moved_is_a_difference(found, said):
    assert next(differences({"a": 1, "b": 2, "c": 0.0}, found)) == said


def test_a_longer_list_is_a_difference():
    assert list(differences([[1], [2]], [[1], [2, 3]])) == ["[1]: 2 entries, were 1"]
