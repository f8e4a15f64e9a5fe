import dataclasses
import os
import pty
import termios

import pytest

from search.keys import HELP, SURE, Keys, Steering
from tests.search_tests.sample_study import sample_study
from trials.memory_store import MemoryStore
from trials.study import StudyState


@pytest.fixture
def store():
    store = MemoryStore()
    store.create_study(sample_study().spec)
    return store


def state(store):
    return store.get_study("quick").state


@pytest.fixture
def terminal():
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_a_key_is_read_without_return_and_the_terminal_is_left_as_it_was(terminal):
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    with Keys(theirs) as keys:
        assert keys.are_read
        assert keys.wait(0.0) == ""
        os.write(ours, b"ps")
        assert [keys.wait(5.0), keys.wait(5.0), keys.wait(0.0)] == ["p", "s", ""]
    assert termios.tcgetattr(theirs) == before


def test_without_a_terminal_waiting_is_all():
    read, write = os.pipe()
    waited = []
    with Keys(read, sleep=waited.append) as keys:
        assert not keys.are_read
        assert keys.wait(0.5) == ""
    os.close(read)
    os.close(write)
    assert waited == [0.5]


def test_p_pauses_and_resumes_and_s_stops(store):
    steering = Steering(store, "quick")
    for key, wanted in [
        ("p", StudyState.PAUSED),
        ("p", StudyState.ACTIVE),
        ("s", StudyState.STOPPING),
    ]:
        assert steering.press(key)
        assert state(store) is wanted


def test_cancelling_takes_two_keys(store):
    steering = Steering(store, "quick")
    steering.press("y")
    steering.press("c")
    assert steering.note == SURE
    steering.press("n")
    steering.press("y")
    assert state(store) is StudyState.ACTIVE
    assert steering.note == HELP
    steering.press("c")
    steering.press("")  # time passes
    steering.press("y")
    assert state(store) is StudyState.CANCELLED


def test_n_turns_to_the_next_older_study_and_keys_then_act_on_it(store):
    store.create_study(dataclasses.replace(sample_study().spec, name="later"))
    steering = Steering(store, "later")
    assert not steering.has_switched
    steering.press("n")
    assert (steering.study, steering.has_switched) == ("quick", True)
    steering.press("s")
    assert state(store) is StudyState.STOPPING
    assert store.get_study("later").state is StudyState.ACTIVE
    steering.press("n")
    assert steering.study == "later"


def test_n_does_nothing_where_there_is_one_study(store):
    steering = Steering(store, "quick")
    steering.press("n")
    assert (steering.study, steering.has_switched) == ("quick", False)


def test_the_help_fits_80_columns():
    assert len(HELP) <= 80


def test_q_leaves_and_nothing_else_does(store):
    steering = Steering(store, "quick")
    assert [steering.press(key) for key in ("", "x", "q")] == [True, True, False]
    assert state(store) is StudyState.ACTIVE


@pytest.mark.parametrize("key", ["p", "s"])
def test_what_the_store_refuses_is_told_below_the_view(store, key):
    store.delete_study("quick")
    steering = Steering(store, "quick")
    assert steering.press(key)
    assert "quick" in steering.note
