"""The barrier of semaphores: nobody leaves before all have come, in any order, again and again."""

import mmap
import random
import threading
import time

import numpy as np
import pytest

from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh.meeting import MEETING_BYTES, Meeting, can_meet

pytestmark = pytest.mark.skipif(not can_meet(), reason="this system has no such semaphores")


def members(size):
    memory = np.frombuffer(mmap.mmap(-1, MEETING_BYTES), np.uint8)
    meetings = [Meeting(memory, index, size) for index in range(size)]
    meetings[0].prepare()
    return meetings


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_nobody_leaves_before_all_have_come(size):
    came, wrong = [0] * size, []

    def play(meeting):
        chance = random.Random(meeting.index)
        for turn in range(1, 200):
            if chance.random() < 0.05:
                time.sleep(chance.random() * 0.002)
            came[meeting.index] = turn
            meeting.meet()
            if min(came) < turn:
                wrong.append((meeting.index, turn, list(came)))

    threads = [threading.Thread(target=play, args=(meeting,)) for meeting in members(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert came == [199] * size
    assert wrong == []


def test_who_waits_knows_who_is_missing():
    first, second, third = members(3)
    thread = threading.Thread(target=first.meet)
    thread.start()
    time.sleep(0.05)
    assert first.missing() == [1, 2]
    other = threading.Thread(target=third.meet)
    other.start()
    time.sleep(0.05)
    assert first.missing() == [1]
    second.meet()
    thread.join(10)
    other.join(10)
    assert first.missing() == []


def test_too_many_members_are_refused():
    memory = np.zeros(MEETING_BYTES, np.uint8)
    with pytest.raises(CollectiveError, match="2000 chips in one group"):
        Meeting(memory, 0, 2000)
