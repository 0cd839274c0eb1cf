"""What a unit of a streaming machine waits for, in words; both engines report a deadlock in the same ones."""

from __future__ import annotations


def for_tokens(fifo: str, needed: int, there: int, since: int, iteration: int) -> str:
    """A stage that cannot start an iteration."""
    return f"for {needed} tokens of {fifo}, which holds {there}, to start iteration {iteration}, since cycle {since}"


def for_pipeline(since: int, iteration: int) -> str:
    """A stage whose results do not leave."""
    return f"for its own results to leave before it starts iteration {iteration}, since cycle {since}"


def for_room(fifo: str, needed: int, free: int, since: int) -> str:
    """Results that cannot leave a stage, or words that cannot enter a FIFO."""
    return f"for {needed} free places of {fifo}, which has {free}, since cycle {since}"


def for_requests(outstanding: int, since: int) -> str:
    """A read stream with as many requests in flight as it may have."""
    return f"for the data of one of its {outstanding} requests to be taken, since cycle {since}"


def for_data(fifo: str, since: int) -> str:
    """A write stream without anything to write."""
    return f"for a beat of {fifo}, since cycle {since}"


__all__ = ["for_data", "for_pipeline", "for_requests", "for_room", "for_tokens"]
