"""What a DRAM is: levels, commands, timing values and timing rules, all of them data.

A standard is a YAML file (`DramConfig`). `DramConfig.resolve` turns it into a `DramSpec`, in which every expression is
an integer number of command-clock ticks; the calendar, the oracle and the energy model read only that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal

from pydantic import Field

from pimsim.arch.rules import Expression, evaluate
from pimsim.model import Documented, Model, NonNegativeFloat, PositiveFloat, PositiveInt

Value = int | float | str
"""A number, or an expression in timing names (a string)."""


class CommandConfig(Model):
    """One DRAM command."""

    scope: str = Field(description="deepest level that the command addresses; it acts on everything below")
    effect: Literal["none", "open", "close"] = Field(
        "none", description="what it does to the rows of the banks in scope"
    )
    needs: Literal["any", "open", "closed"] = Field("any", description="state that the banks in scope must be in")
    data: Literal["none", "read", "write"] = Field("none", description="direction on the data pins")
    bus: str = Field("command", description="command bus that carries it; two commands on one bus never overlap")
    ticks: PositiveInt = Field(1, description="bus occupancy in ticks")
    register_file: str | None = Field(None, description="name of the register file that the command addresses, if any")
    latency: Value = Field(0, description="ticks from issue until its effect is complete (expression)")
    refresh: bool = Field(False, description="true for the command that the refresh policy issues")
    after: str | None = Field(
        None,
        description="first step of which the command is the second: nothing that needs a closed bank may come between them",
    )
    within: Value | None = Field(
        None, description="ticks after the first step, at most (expression); default: any time"
    )


class RuleConfig(Model):
    """A timing rule: after ``prev``, ``next`` must wait ``min`` (see docs, "how cycles are counted")."""

    level: str
    prev: list[str] = Field(min_length=1)
    next: list[str] = Field(min_length=1)
    min: Value
    window: PositiveInt = 1
    sibling: bool = False


class RefreshConfig(Model):
    """When rows are refreshed."""

    policy: Literal["all_bank", "none"] = Field(
        default="all_bank",
        description="all_bank: when a command would issue at or after the due time, PREab and REFab go first and the rows "
        "that the program still needs are activated again; none: no refresh",
    )
    interval: Value = Field(default="nREFI", description="ticks between refreshes (expression)")


class DramElectrical(Model):
    """Supply and currents of one device (data sheet IDD values)."""

    vdd_v: PositiveFloat
    idd0_ma: NonNegativeFloat
    idd2n_ma: NonNegativeFloat
    idd3n_ma: NonNegativeFloat
    idd4r_ma: NonNegativeFloat
    idd4w_ma: NonNegativeFloat
    idd5b_ma: NonNegativeFloat
    devices_per_channel: PositiveInt = 1


class DramConfig(Documented):
    """A DRAM standard, speed grade and organisation."""

    name: str
    description: str = ""
    standard: str
    tck_ps: PositiveFloat = Field(description="command-clock period in picoseconds")
    ticks_per_clock: PositiveInt = Field(
        1, description="scheduling steps per clock (2 where commands take half clocks)"
    )
    channels: PositiveInt = 1
    levels: dict[str, PositiveInt] = Field(description="levels below the channel, outermost first, each with its count")
    rows: PositiveInt
    columns: PositiveInt = Field(description="column accesses (bursts) per row")
    burst_bytes: PositiveInt = Field(description="bytes that one column access moves")
    pins: PositiveInt | None = Field(None, description="data pins per channel")
    pin_gbps: PositiveFloat | None = Field(None, description="data rate per pin in Gb/s")
    register_files: dict[str, PositiveInt] = Field(
        default_factory=dict, description="per-channel registers, name -> count"
    )
    timing: dict[str, Value] = Field(description="nX in clocks; a value may be an expression in other names")
    counts_from: Literal["first_tick", "last_tick"] = Field(
        "first_tick",
        description="last_tick: rule values count from the last bus tick of a multi-tick command, as JEDEC does",
    )
    commands: dict[str, CommandConfig] = Field(min_length=1)
    rules: list[RuleConfig]
    refresh: RefreshConfig = RefreshConfig()
    electrical: DramElectrical | None = None

    def resolve(self) -> DramSpec:
        """The same standard with every expression evaluated to ticks.

        Raises:
            ConfigError: a name is unknown or a value is not a whole number; the path names the field.
        """
        from pimsim.arch.resolve import resolve_dram

        return resolve_dram(self)

    @property
    def row_bytes(self) -> int:
        """Bytes in one row of one bank."""
        return self.columns * self.burst_bytes


@dataclass(frozen=True)
class Command:
    """A DRAM command with its expressions evaluated (ticks)."""

    name: str
    scope: str
    effect: str
    needs: str
    data: str
    bus: str
    ticks: int
    register_file: str | None
    latency: int
    refresh: bool
    after: str | None = None
    """The first step of which this is the second."""
    within: int | None = None
    """Ticks after the first step, at most."""


@dataclass(frozen=True)
class Rule:
    """A timing rule with its gap in ticks, already corrected for multi-tick commands."""

    level: str
    prev: tuple[str, ...]
    next: tuple[str, ...]
    gap: int
    window: int
    sibling: bool
    text: str = field(compare=False)
    """The gap as it is written in the YAML, for stall reasons and messages (for example ``nRCD``)."""


@dataclass(frozen=True)
class DramSpec:
    """A DRAM standard resolved to integers; everything that times or checks commands reads this."""

    name: str
    tck_ps: float
    ticks_per_clock: int
    channels: int
    levels: tuple[str, ...]
    """Levels below the channel, outermost first, ending with the bank level."""
    counts: tuple[int, ...]
    register_files: dict[str, int]
    rows: int
    columns: int
    burst_bytes: int
    timing: dict[str, int]
    commands: dict[str, Command]
    rules: tuple[Rule, ...]
    refresh_policy: str
    refresh_interval: int

    @property
    def address_fields(self) -> tuple[str, ...]:
        """Names of the entries of an address: the levels, then the register files."""
        return self.levels + tuple(self.register_files)

    @cached_property
    def banks_per_channel(self) -> int:
        """Banks in one channel."""
        product = 1
        for count in self.counts:
            product *= count
        return product

    @property
    def tick_seconds(self) -> float:
        """Length of one scheduling tick in seconds."""
        return self.tck_ps * 1e-12 / self.ticks_per_clock

    def seconds(self, ticks: int) -> float:
        """Ticks in seconds, rounded once."""
        return float(Fraction(ticks) * Fraction(repr(self.tck_ps)) / (self.ticks_per_clock * 10**12))


__all__ = [
    "Command",
    "CommandConfig",
    "DramConfig",
    "DramElectrical",
    "DramSpec",
    "Expression",
    "RefreshConfig",
    "Rule",
    "RuleConfig",
    "Value",
    "evaluate",
]
