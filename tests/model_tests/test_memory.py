"""The pool of memory that calls hand on to each other."""

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.memory import Pool


def test_blocks_are_handed_on_when_their_last_use_ends():
    pool = Pool()
    first, second = pool.take(100), pool.take(50)
    places = first.data_ptr(), second.data_ptr()
    part = first[10:]
    del first
    third = pool.take(40)
    assert third.data_ptr() not in places  # both are in use
    del part, second, third
    held = [pool.take(size) for size in (100, 50, 40)]
    assert {block.data_ptr() for block in held} >= set(places)
    assert [len(block) for block in held] == [100, 50, 40]


def test_a_block_that_is_too_small_gives_way():
    pool = Pool()
    for size in (10, 30, 20, 40):
        block = pool.take(size)
        address = block.data_ptr()
        del block
    assert pool.take(5).data_ptr() == address  # one was in use at a time: there is one, the largest


def test_want_of_memory_is_one_and_free_blocks_are_given_up_first(monkeypatch):
    pool, asked = Pool(), []
    held = [pool.take(size) for size in (30, 40)]
    del held

    def refuse(size):
        asked.append((size, len(pool._free)))
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("model.memory._map", refuse)
    with pytest.raises(MemoryError, match="no memory for 1 MB"):
        pool.take(2**20)
    assert asked == [(2**20, 1), (2**20, 0)]


@given(sizes=st.lists(st.integers(1, 500), max_size=30), seed=st.integers(0, 99))
def test_no_two_users_share_a_block(sizes, seed):
    pool, held, random_ = Pool(), [], random.Random(seed)
    for number, size in enumerate(sizes):
        held.append((number, pool.take(size).fill_(number)))
        if random_.random() < 0.5:
            held.pop(random_.randrange(len(held)))
    for number, block in held:
        assert (block == number).all()
