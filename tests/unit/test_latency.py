"""How long users wait, and what is said while they do."""

import time

import pytest

from galaxy_mpi.engine.latency import Latency
from galaxy_mpi.engine.request import EndReason, Request
from galaxy_mpi.progress import FirstWords
from galaxy_mpi.stream import Stream

FOUR = Latency(
    n_tokens=[3, 1, 0, 5],
    queue_s={0: 0.0, 1: 1.0, 3: 2.0},
    first_token_s={0: 1.0, 1: 2.0, 3: 4.0},
    last_token_s={0: 3.0, 1: 2.0, 3: 8.0},
    total_s=8.0,
)


def test_times_between_tokens_are_of_users_that_have_two():
    assert FOUR.per_token_s == [1.0, None, None, 1.0]
    found = FOUR.to_dict()
    assert found["new_tokens_per_s"] == 9 / 8
    assert found["queue_wait_by_user_s"] == [0.0, 1.0, None, 2.0]


def test_percentiles_are_over_users_and_interpolated():
    first = FOUR.percentiles()["time_to_first_token_s"]
    # Of 1, 2 and 4 the median is 2; 90 % of the way from 2 to 4 is 3.8, 98 % is 3.96.
    assert first == pytest.approx({"p50": 2.0, "p95": 3.8, "p99": 3.96})
    assert Latency([0], {}, {}, {}, 0.0).percentiles()["per_token_s"] is None


def test_one_user_has_no_percentiles_in_the_table():
    alone = Latency([2], {0: 0.0}, {0: 1.0}, {0: 2.0}, 2.0)
    assert alone.rows("host") == [("host: run", "2.00 s, 1.0 new tokens/s, prefill included")]
    assert [name for name, _ in FOUR.rows("device")] == [
        "device: run",
        "device: wait for a place",
        "device: first token",
        "device: per token",
    ]


def text_of(tokens):
    return "".join("abcdefgh"[token] for token in tokens)


def test_text_of_one_user_is_continuous():
    said = []
    stream, request = Stream(said.append, 1), Request(0, [7, 7], [], 9)
    for token in (0, 1, 2):
        request.generated.append(token)
        request.ended = EndReason.LENGTH if token == 2 else None
        stream.generated(request, text_of)
    assert said == ["[user 0] hh|", "a", "b", "c\n\n"]


def test_a_letter_that_is_not_whole_is_not_shown():
    said = []
    stream, request = Stream(said.append, 1), Request(0, [1], [], 9)
    request.generated = [1]
    stream.generated(request, lambda tokens: "x" if tokens == [1] and said else "\ufffd")
    request.generated, request.ended = [1, 2], EndReason.LENGTH
    stream.generated(request, lambda tokens: "é")
    assert "".join(said).endswith("|é\n\n")


def test_of_several_users_each_line_is_one_users():
    said = []
    stream, users = Stream(said.append, 2), [Request(n, [0], [], 99) for n in range(2)]
    for step in range(70):
        for user in users:
            user.generated.append(user.number)
            user.ended = EndReason.LENGTH if step == 69 else None
            stream.generated(user, text_of)
    assert said == [
        f"[user 0] {'a' * 60}\n",
        f"[user 1] {'b' * 60}\n",
        f"[user 0] {'a' * 10}  [length]\n",
        f"[user 1] {'b' * 10}  [length]\n",
    ]


def test_something_is_said_if_nothing_else_was(capfd):
    FirstWords("reading", enabled=True, after_s=0.01)
    time.sleep(0.3)
    assert capfd.readouterr().err == "reading ...\n"
    for enabled in (True, False):
        FirstWords("reading", enabled=enabled, after_s=0.2).cancel()
    time.sleep(0.3)
    assert capfd.readouterr().err == ""
