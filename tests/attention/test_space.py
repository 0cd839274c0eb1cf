"""The SRAM of the ASIC as it is given out and taken back, against a list with an entry for each element."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.errors import CapacityExceeded
from pimsim.mapper.attention.space import Buffer, Space

LANES, CAPACITY = 4, 64


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(-6, 24), max_size=60), st.booleans())
def test_a_place_waits_for_whoever_used_its_elements_last(steps: list[int], compact: bool) -> None:
    space = Space(CAPACITY, LANES, 2, compact=compact)
    owner: list[int | None] = [None] * CAPACITY
    last: list[str] = [""] * CAPACITY
    held: list[Buffer] = []
    for number, step in enumerate(steps):
        if step <= 0:
            if held:
                buffer = held.pop(-step % len(held))
                space.give_back("it", buffer)
                for element in range(buffer.at, buffer.at + buffer.length):
                    owner[element], last[element] = None, next(iter(buffer.tokens))
            continue
        size = -(-step // LANES) * LANES
        try:
            buffer = space.take("it", step)
        except CapacityExceeded:
            free = "".join("x" if each is not None else "." for each in owner)
            assert "." * size not in free
            continue
        place = range(buffer.at, buffer.at + buffer.length)
        assert (len(place), buffer.at % LANES) == (size, 0)
        assert all(owner[element] is None for element in place)
        assert set(buffer.free_after) == {last[element] for element in place} - {""}
        buffer.tokens[f"token {number}"] = None
        for element in place:
            owner[element] = number
        held.append(buffer)
        assert space.live == sum(each is not None for each in owner)


def test_what_was_given_back_is_not_remembered_twice() -> None:
    space = Space(CAPACITY, LANES, 2)
    for number in range(2000):  # places of other sizes than those before them, over and over
        buffer = space.take("it", 4 + 4 * (number % 7))
        buffer.tokens[f"token {number}"] = None
        space.give_back("it", buffer)
        assert len(buffer.free_after) <= 8


def test_the_message_says_what_does_not_fit() -> None:
    space = Space(CAPACITY, LANES, 2)
    space.take("first", 40)
    with pytest.raises(
        CapacityExceeded, match=r"^asic\.sram_bytes must hold .* second takes 64 bytes where 48 of 128 are free$"
    ):
        space.take("second", 32)
