"""Order of the steps of a block, and what is said when there is none."""

from __future__ import annotations

import pytest

from pimsim.errors import Deadlock, ProgramError
from pimsim.program.isa import Block, Op, Step

OPS = (Op("linear", "h0.qkv"), Op("softmax", "h0.softmax"))


def step(op: int, waits: tuple[str, ...] = (), signals: tuple[str, ...] = ()) -> Step:
    return Step(op, (), waits, signals)


def test_order_is_topological_and_carried_tokens_are_named_once() -> None:
    block = Block(
        "b",
        OPS,
        ((step(0, ("x",), ("a",)), step(0, ("c", "x"))), (step(0, (), ("a",)),)),
        (step(1, ("a",), ("c",)),),
    )
    assert block.order == ((0, 0), (1, 0), (2, 0), (0, 1))
    assert block.carried == ("x",)


def test_a_token_is_there_when_its_last_producer_has_signalled() -> None:
    block = Block("b", OPS, ((step(0, (), ("a",)),), (step(0, (), ("a",)),)), (step(1, ("a",)),))
    assert block.order[-1] == (2, 0)


def test_deadlock_names_everybody_and_what_they_wait_for() -> None:
    with pytest.raises(Deadlock) as caught:
        Block("scores", OPS, ((step(0), step(0, ("a", "x"), ("b",))), ()), (step(1, ("b",), ("a",)),))
    assert str(caught.value) == (
        "block 'scores' must be free of circular waits: channel0 waits for a at step 1 (h0.qkv); "
        "asic waits for b at step 0 (h0.softmax)"
    )


def test_waiting_for_oneself_is_a_deadlock() -> None:
    with pytest.raises(
        Deadlock, match=r"^block 'b' must be free of circular waits: channel0 waits for a at step 0 \(h0.qkv\)$"
    ):
        Block("b", OPS, ((step(0, ("a",)), step(0, (), ("a",))),), ())


def test_a_token_of_a_later_step_of_the_same_stream_is_never_carried_in() -> None:
    with pytest.raises((Deadlock, ProgramError)):
        Block("b", OPS, ((step(0, ("a",), ("a",)),),), ())


def test_nothing_to_do() -> None:
    block = Block("b", (), ((), ()), ())
    assert (block.order, block.carried) == ((), ())
