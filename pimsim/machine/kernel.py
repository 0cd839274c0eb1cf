"""The event kernel: the only place that knows SimPy.

Units are processes; what they exchange are `Token`s. Time is an integer number of memory ticks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import simpy

from pimsim.errors import Deadlock

Process = Generator[Any, Any, None]


def _when(event: simpy.Event, action: Callable[[], object]) -> None:
    """Carry out an action when an event, which has not happened yet, happens."""

    def call(_: simpy.Event) -> None:
        action()

    assert event.callbacks is not None
    event.callbacks.append(call)


class Token:
    """Something that several producers signal and anybody may wait for; it is there when the last producer has signalled."""

    def __init__(self, kernel: Kernel, name: str, kind: str, producers: int) -> None:
        self.name, self.kind = name, kind
        self.time = 0
        self._left = producers
        self._event = simpy.Event(kernel.env)

    @property
    def pending(self) -> simpy.Event | None:
        """The event to wait for, or None if the token is there already."""
        return None if self._event.triggered else self._event

    def signal(self, now: int) -> None:
        """One producer is done."""
        self._left -= 1
        self.time = max(self.time, now)
        if self._left == 0:
            self._event.succeed()


class Kernel:
    """Runs processes until all are finished."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        self._waiting: dict[str, Callable[[], str]] = {}

    @property
    def now(self) -> int:
        """Current tick."""
        return int(self.env.now)

    def start(self, name: str, process: Process, state: Callable[[], str]) -> None:
        """Add a unit; ``state`` says what it is waiting for, should the simulation get stuck, or nothing if others say it."""
        self._waiting[name] = state
        finished = self.env.process(process)
        _when(finished, lambda: self._waiting.pop(name))

    def until(self, tick: int) -> simpy.Event:
        """An event at a tick that is not in the past."""
        return self.env.timeout(tick - self.now)

    def at(self, tick: int, action: Callable[[], None]) -> None:
        """Carry out an action at a tick."""
        _when(self.until(tick), action)

    def run(self) -> None:
        """Run until every unit is finished.

        Raises:
            Deadlock: nothing can happen any more but units still wait.
        """
        self.env.run()
        if self._waiting:
            reasons = ((name, state()) for name, state in sorted(self._waiting.items()))
            raise Deadlock("; ".join(f"{name} waits {reason}" for name, reason in reasons if reason))


class Gate:
    """Lets through everybody who waits at the moment when it is opened, and is closed again at once."""

    def __init__(self, kernel: Kernel) -> None:
        self._env = kernel.env
        self._event = simpy.Event(kernel.env)

    def wait(self) -> simpy.Event:
        """The event of the next opening."""
        return self._event

    def open(self) -> None:
        """Let through who waits."""
        event, self._event = self._event, simpy.Event(self._env)
        event.succeed()


class Turn:
    """What happens at an instant after everything else, in the order of an explicit key."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._env = kernel.env
        self._entries: list[tuple[int, Callable[[], None]]] = []

    def enter(self, key: int, action: Callable[[], None]) -> None:
        """Carry out an action at the end of this instant, after those with smaller keys."""
        if not self._entries:
            event = simpy.Event(self._env)
            event._ok, event._value = True, None  # noqa: SLF001
            self._env.schedule(event, priority=2)  # type: ignore[arg-type]
            _when(event, self._play)
        self._entries.append((key, action))

    def _play(self) -> None:
        entries, self._entries = sorted(self._entries, key=lambda entry: entry[0]), []
        for _, action in entries:
            action()
