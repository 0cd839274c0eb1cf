"""What a program of an attention algorithm does, counted command by command: the simulated side of the closed forms.

========  ==============================================================================================================
scores    results of products with keys, in the banks and on chip, less those that only fill a group and are masked
exps      exponentials of the functions of the ASIC; logs likewise
macs      elements of the global buffer that carry something, times the results that are read; products on chip
reads     words over the pins for loads and gathers, and words that products meet in the banks: each once for a load
          (`ProgramCounts.unread` has those that they do not meet)
writes    words over the pins for stores and appends
========  ==============================================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pimsim.arch.tensor_functions import EXPONENTIALS, LOGARITHMS
from pimsim.mapper.attention.lowering import AttentionLowering
from pimsim.program.isa import Block, Compute, Item, Repeat, Run


@dataclass
class ProgramCounts:
    """Totals of a program; words are elements."""

    scores: int = 0
    exps: int = 0
    logs: int = 0
    macs: int = 0
    reads: int = 0
    writes: int = 0
    gathered: int = 0
    persistent: int = 0
    macs_in_banks: int = 0
    """Of `macs`, with what masks exclude."""
    met_in_banks: int = 0
    """Words that products meet in the banks, each once for a load or, without one, for a product."""
    met_besides: int = 0
    """Of `met_in_banks`, words that no load names: constants that products multiply with."""
    unread: int = 0
    """Words that loads name and that no row meets, because masks exclude them; the banks do not touch them."""
    moved_besides: int = 0
    """Words over the pins that no primitive names: results in memory that are also needed on chip or turned, or the reverse."""

    def times(self, number: int) -> ProgramCounts:
        """Counts of so many runs of the program; what is persistent stays one."""
        counted = {each.name: getattr(self, each.name) * number for each in fields(self)}
        return ProgramCounts(**counted | {"persistent": self.persistent})


BESIDES = {"fetch", "copy", "spill"}
"""Operations that no primitive names."""


def count_program(block: Block, lowering: AttentionLowering) -> ProgramCounts:
    """Walk all steps of all units."""
    found = ProgramCounts(persistent=sum(value.size for value in lowering.persistent.values()))
    _count_asic(block, lowering, found)
    once: dict[tuple[str, int, int, int], int] = {}
    spec = lowering.pim.spec
    for number, stream in enumerate(block.channels):
        for step in stream:
            walk = _Walk(lowering.shape.lanes, lowering.shape.banks, spec.commands)
            walk.items(step.items, 0)
            kind = block.ops[step.op].kind
            found.macs += walk.macs
            found.macs_in_banks += walk.macs
            found.scores += walk.results if kind == "scores" else 0
            if kind in BESIDES:
                found.moved_besides += walk.read + walk.written
            else:
                found.reads += walk.read
                found.gathered += walk.read if kind == "gather" else 0
                found.writes += walk.written
            load = lowering.served.get(step.op, "")
            for (row, column), words in walk.words.items():
                key = (load or f"op {step.op}", number, row, column)
                once[key] = max(once.get(key, 0), words)
    found.met_in_banks = sum(once.values())
    loads = {*lowering.served.values()}
    met = sum(words for (load, *_), words in once.items() if load in loads)
    met -= lowering.skipped["words"]  # of groups and columns in which a view begins: no load names them
    found.reads += met
    found.met_besides = found.met_in_banks - met
    found.unread = sum(lowering.values[name].size for name in loads) - met
    found.scores -= lowering.skipped["scores"]
    found.macs -= lowering.skipped["macs"]
    return found


def _count_asic(block: Block, lowering: AttentionLowering, found: ProgramCounts) -> None:
    for step in block.asic:
        for item in step.items:
            assert isinstance(item, Compute)
            found.exps += EXPONENTIALS.get(item.function, 0) * item.length
            found.logs += LOGARITHMS.get(item.function, 0) * item.length
            if item.function == "matmul":
                found.macs += item.length
                known: Mapping[str, Any] = lowering.constants[item.parameters]
                if known.get("product") == "scores":
                    found.scores += item.length // known["shapes"][0][-1]


@dataclass
class _Walk:
    """One step of one channel."""

    lanes: int
    banks: int
    commands: Mapping[str, Any]
    macs: int = 0
    results: int = 0
    read: int = 0
    written: int = 0
    words: dict[tuple[int, int], int] = field(default_factory=dict)
    """(row, column) at which a dot product begins -> words that it meets."""
    carried: dict[int, int] = field(default_factory=dict)
    """Column of the global buffer -> elements that it carries."""
    sums: dict[tuple[int, ...], list[Any]] = field(default_factory=dict)
    """Address of an accumulator -> [elements so far, row, column of the first]."""
    moved: Counter[str] = field(default_factory=Counter)

    def items(self, items: Iterable[Any], rows: int) -> None:
        """Walk items; rows of a loop move."""
        for item in items:
            if isinstance(item, Repeat):
                for i in range(item.count):
                    self.items(item.body, rows + i * item.row_step)
            else:
                self._run(item, rows)

    def _run(self, run: Item, rows: int) -> None:
        assert isinstance(run, Run)
        if run.command == "WR_GB":
            left = run.elements if run.elements >= 0 else run.count * self.lanes
            for k in range(run.count):
                self.carried[run.buffer + k] = max(0, min(self.lanes, left - k * self.lanes))
        elif run.command == "MAC_AB":
            begun = self.sums.setdefault(run.where, [0, run.row + rows, run.column])
            begun[0] += sum(self.carried[run.buffer + k] for k in range(run.count))
        elif run.command == "RD_MAC":
            elements, row, column = self.sums.pop(run.where)
            results = run.elements if run.elements >= 0 else self.banks
            self.macs += results * elements
            self.results += results
            self.words[row, column] = max(self.words.get((row, column), 0), results * elements)
        elif run.command == "RD":
            self.read += _words(run, self.lanes)
        elif run.command == "WR":
            self.written += run.count if run.lane >= 0 else _words(run, self.lanes)


def _words(run: Run, lanes: int) -> int:
    return run.elements if run.elements >= 0 else run.count * lanes


__all__ = ["ProgramCounts", "count_program"]
