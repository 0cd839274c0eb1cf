"""The event kernel: tokens, time, and a report when nothing can happen any more."""

from __future__ import annotations

import pytest

from pimsim.errors import Deadlock
from pimsim.machine.kernel import Kernel, Process, Token


def waiter(token: Token) -> Process:
    if token.pending is not None:
        yield token.pending


def sleeper(kernel: Kernel, tick: int, token: Token) -> Process:
    yield kernel.until(tick)
    token.signal(kernel.now)


def test_deadlock_names_every_unit_that_waits_sorted() -> None:
    kernel = Kernel()
    never, soon = Token(kernel, "norm", "layernorm", 2), Token(kernel, "x", "add", 1)
    kernel.start("channel1", waiter(never), lambda: "for norm at step 3")
    kernel.start("asic", waiter(never), lambda: "for norm at step 0")
    kernel.start("channel0", sleeper(kernel, 5, never), lambda: "for nothing")
    kernel.start("channel2", waiter(soon), lambda: "for x")
    kernel.at(7, lambda: soon.signal(7))
    with pytest.raises(Deadlock, match=r"^asic waits for norm at step 0; channel1 waits for norm at step 3$"):
        kernel.run()
    assert kernel.now == 7


def test_a_token_is_there_when_the_last_producer_has_signalled() -> None:
    kernel = Kernel()
    token = Token(kernel, "a", "linear", 2)
    kernel.start("channel0", sleeper(kernel, 9, token), lambda: "")
    kernel.start("channel1", sleeper(kernel, 4, token), lambda: "")
    kernel.start("asic", waiter(token), lambda: "for a")
    kernel.run()
    assert token.pending is None
    assert token.time == 9
    assert kernel.now == 9


def test_a_token_that_is_there_needs_no_wait() -> None:
    kernel = Kernel()
    token = Token(kernel, "a", "linear", 1)
    token.signal(0)
    kernel.start("asic", waiter(token), lambda: "for a")
    kernel.run()
    assert kernel.now == 0


def test_actions_happen_at_their_tick() -> None:
    kernel = Kernel()
    seen: list[tuple[str, int]] = []
    kernel.at(3, lambda: seen.append(("b", kernel.now)))
    kernel.at(1, lambda: seen.append(("a", kernel.now)))
    kernel.run()
    assert seen == [("a", 1), ("b", 3)]
