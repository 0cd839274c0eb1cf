"""What the machine does where aim_simulator is known to be wrong: properly, or as that simulator does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """One answer to each quirk."""

    refreshes: bool
    """Refreshes are issued. The simulator counts ranks, which its GDDR6 does not have, and so never issues one."""
    drains: bool
    """SYNC and EOC wait for plain reads and writes whose row is being opened, and so do AiM requests and refreshes.
    The simulator waits for none of them: such accesses may be lost at the end."""
    forwards_any_read: bool
    """A plain read is answered without a command while any write is queued, and not only one of the same address."""
    stacks_rows: bool
    """An all-bank activate leaves open rows open beside the new one. No DRAM can do that."""
    lookup_row: int | None
    """Row of the table of activation function 0; None for the last rows of a bank."""


POLICIES: dict[str, Policy] = {
    "none": Policy(refreshes=True, drains=True, forwards_any_read=False, stacks_rows=False, lookup_row=None),
    "aim_simulator": Policy(refreshes=False, drains=False, forwards_any_read=True, stacks_rows=True, lookup_row=2**29),
    "aim_simulator_refreshed": Policy(
        refreshes=True, drains=False, forwards_any_read=True, stacks_rows=True, lookup_row=2**29
    ),
}
"""Name (``arch.quirks``) -> policy. ``aim_simulator_refreshed`` is the simulator with its refresh manager repaired."""

LOOKUP_TABLES = 8
"""Activation functions; without quirks their tables lie in the last rows of every bank."""


__all__ = ["LOOKUP_TABLES", "POLICIES", "Policy"]
