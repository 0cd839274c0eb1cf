"""Windows of words against NumPy, and a buffer that never gives the same words twice."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from pimsim.errors import CapacityExceeded
from pimsim.mapper.fpga.buffers import Buffer, Memory
from pimsim.program.places import dense

SETTINGS = settings(deadline=None, max_examples=200, derandomize=True)


@SETTINGS
@given(st.data())
def test_a_window_shows_what_numpy_shows(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    words = np.arange(prod(shape))
    place, array = dense("chip", 0, shape), words.reshape(shape)
    if data.draw(st.booleans()):
        order = tuple(data.draw(st.permutations(range(len(shape)))))
        place, array = place.permute(order), array.transpose(order)
    if data.draw(st.booleans()):
        axis = data.draw(st.integers(0, len(shape) - 1))
        start = data.draw(st.integers(0, array.shape[axis] - 1))
        stop = data.draw(st.integers(start + 1, array.shape[axis]))
        place, array = place.part(axis, start, stop), array.take(range(start, stop), axis)
    to, left = [], array.size
    while left > 1:
        to.append(data.draw(st.sampled_from([f for f in range(2, left + 1) if left % f == 0])))
        left //= to[-1]
    to += [1] * (not to)
    found = place.reshape(tuple(to))
    if found is None:
        assert place.strides != dense("chip", 0, place.shape).strides  # what lies dense can be seen in any shape
        return
    seen = as_strided(words[found.start :], found.shape, [words.itemsize * step for step in found.strides])
    np.testing.assert_array_equal(seen, array.reshape(to))


@SETTINGS
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60))
def test_a_buffer_gives_no_word_twice(steps: list[tuple[bool, int]]) -> None:
    buffer = Buffer(64)
    held: list[tuple[int, int]] = []
    for gives, size in steps:
        if gives or not held:
            live = sum(each for _, each in held)
            try:
                start, _ = buffer.give(size, "x", live)
            except CapacityExceeded:
                continue
            assert 0 <= start <= start + size <= 64
            assert all(start + size <= other or other + length <= start for other, length in held)
            held.append((start, size))
        else:
            start, length = held.pop(size % len(held))
            buffer.take_back(start, length, (start,))
    for start, length in held:
        buffer.take_back(start, length, ())
    assert buffer.give(64, "all", 0)[0] == 0


def test_equal_buffers_take_turns() -> None:
    buffer = Buffer(64)
    one, other = buffer.give(8, "x", 0)[0], buffer.give(8, "y", 8)[0]
    buffer.take_back(one, 8, (1,))
    third = buffer.give(8, "z", 8)[0]
    buffer.take_back(other, 8, (2,))
    assert third not in {one, other}
    assert buffer.give(8, "w", 8) == (one, (1,))


def test_rows_in_memory_begin_with_a_beat_and_have_room_for_new_ones() -> None:
    memory = Memory(8, ("a", "b"))
    one, other = memory.place((2, 3, 5), 4), memory.place((7,), 1)
    assert (one.strides, other.start) == ((32, 8, 1), 64)
    assert [memory.port(place) for place in (one, one.part(0, 1, 2), other)] == ["a", "a", "b"]
