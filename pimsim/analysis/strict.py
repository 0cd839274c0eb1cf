"""The legality oracle during a run: every command is checked as it issues, and the first illegal one ends the run.

What is remembered is what the rules look back at (`pimsim.analysis.legality.ChannelChecker`), so memory does not grow with
the run.
"""

from __future__ import annotations

from pimsim.analysis.legality import ChannelChecker, Finding
from pimsim.arch.dram import DramSpec
from pimsim.errors import TimingViolation
from pimsim.trace.csvio import TraceCommand

Row = tuple[int, int, str, tuple[int, ...], int, int]
"""(tick, channel, command, address, row, column)."""


class StrictOracle:
    """Checks commands one by one; those of a channel must come in the order of issue.

    >>> from pimsim.config import load_dram
    >>> spec = load_dram("ddr4_3200aa").value.resolve()
    >>> oracle = StrictOracle(spec)
    >>> oracle((1, 0, "ACT", (0, 0, 0), 7, -1))
    >>> oracle((22, 0, "RD", (0, 0, 0), 7, 3))
    Traceback (most recent call last):
    pimsim.errors.TimingViolation: channel 0: RD at tick 22 must keep Bank: ACT->RD >= 22 (nRCD), not come 21 after ACT at tick 1
    >>> oracle.checked
    1
    """

    def __init__(self, spec: DramSpec) -> None:
        self._spec = spec
        self._channels: dict[int, ChannelChecker] = {}
        self.checked = 0
        """Commands that were found legal."""

    def __call__(self, row: Row) -> None:
        """Check a command and remember it.

        Raises:
            TimingViolation: it breaks a rule; the message names the rule, both commands and their times.
        """
        tick, channel, name, address, opened, column = row
        checker = self._channels.get(channel)
        if checker is None:
            checker = self._channels[channel] = ChannelChecker(self._spec)
        command = TraceCommand(tick, name, channel, row=opened, column=column)
        for finding in checker.broken(command, address):
            raise TimingViolation(f"channel {channel}: {name} at tick {tick} must {_broken(tick, finding)}")
        checker.note(command, address)
        self.checked += 1


def _broken(tick: int, finding: Finding) -> str:
    kind, constraint, found = finding
    if kind in ("timing", "bus"):
        before = constraint.rpartition(": ")[2].partition("->")[0]
        return f"keep {constraint}, not come {found} after {before} at tick {tick - int(found)}"
    return f"keep {constraint}, not {found}"


__all__ = ["StrictOracle"]
