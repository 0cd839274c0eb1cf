"""A single-stream in-order driver: the definition behind the ``*.inorder.cmd.csv`` files.

For each request in file order: close the row in the way, open the row, read or write. Each command goes at the earliest
legal tick after the command before it and after the arrival of the request. With refresh, `due` starts at one
interval; if the next command would issue at `due` or later, every rank (or pseudo channel) first gets its banks
closed, if one is open, and a refresh, none earlier than `due`.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.machine.bank import BankState
from pimsim.machine.calendar import Calendar


class Request(NamedTuple):
    arrive: int
    goal: str
    where: tuple[int, ...]
    row: int
    column: int


Issued = tuple[int, str, tuple[int, ...]]
"""(tick, command, where)"""


def read_requests(path: Path, spec: DramSpec) -> Iterator[Request]:
    with path.open() as file:
        for line in csv.DictReader(file):
            named = dict(line, pseudochannel=line["rank"])
            where = tuple(int(named[level]) for level in spec.levels)
            goal = "RD" if line["op"] == "R" else "WR"
            yield Request(int(line["arrive"]), goal, where, int(line["row"]), int(line["column"]))


class InOrder:
    def __init__(self, spec: DramSpec, refresh: bool) -> None:
        self.spec = spec
        self.calendar, self.banks = Calendar(spec), BankState(spec)
        self.issued: list[Issued] = []
        self.tick = 0
        self.due = spec.refresh_interval if refresh else None
        self.refresh_command = next(c for c in spec.commands.values() if c.refresh)

    def serve(self, request: Request) -> None:
        while True:
            command, where = self.banks.next_command(request.goal, request.where, request.row)
            tick = self._earliest(command, where, request.arrive + 1)
            if self.due is not None and tick >= self.due:
                self._refresh(self.due)
                continue
            self._issue(command, where, request.row, tick)
            if command == request.goal:
                return

    def _refresh(self, due: int) -> None:
        name, scope = self.refresh_command.name, self.refresh_command.scope
        depth = 0 if scope == "channel" else self.spec.levels.index(scope) + 1
        for path in itertools.product(*map(range, self.spec.counts[:depth])):
            goal = path + (-1,) * (len(self.spec.levels) - depth)
            while True:
                command, where = self.banks.next_command(name, goal)
                self._issue(command, where, -1, self._earliest(command, where, due))
                if command == name:
                    break
        self.due = due + self.spec.refresh_interval

    def _earliest(self, command: str, where: tuple[int, ...], not_before: int) -> int:
        return max(self.calendar.earliest(self.calendar.plan(command, where)), self.tick + 1, not_before)

    def _issue(self, command: str, where: tuple[int, ...], row: int, tick: int) -> None:
        self.banks.check(command, where, row)
        self.calendar.record(self.calendar.plan(command, where), tick)
        self.banks.apply(command, where, row)
        self.tick = tick
        self.issued.append((tick, command, where))


def run(spec: DramSpec, requests: Iterator[Request], refresh: bool) -> list[Issued]:
    driver = InOrder(spec, refresh)
    for request in requests:
        driver.serve(request)
    return driver.issued
