"""Every exception that pimsim raises on purpose.

::

    PimsimError
    ├── InputError                what the user gave is wrong (exit code 2)
    │   ├── ConfigError           a YAML value: file, line, column and field path are named
    │   ├── TraceError            a row of a command trace: file and line are named
    │   ├── WorkloadError         a workload that cannot be built
    │   ├── MappingError          a workload that this machine cannot run
    │   │   ├── UnsupportedOp     no unit of the machine can run an operation
    │   │   └── CapacityExceeded  a memory is too small
    │   └── UnknownName           a name that is not registered; carries the choices
    ├── ProgramError              a command program breaks a static rule
    ├── SimulationError
    │   ├── Deadlock              units wait for each other for ever
    │   ├── Starvation            a unit hardly ever gets what it shares with another
    │   └── TimingViolation       a command was issued against a timing rule or a bank state
    ├── FunctionalMismatch        a mapped program computed something else than the reference
    └── UnknownCoefficient        an energy was asked for that has no coefficient

A message says what must hold, not what was given, then the choices.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class PimsimError(Exception):
    """Base class of all errors that pimsim raises on purpose."""


class InputError(PimsimError):
    """What the user gave is wrong; the command line exits with code 2."""


class ConfigError(InputError):
    """A configuration value is wrong.

    ``str(error)`` reads ``file:line:column: field.path: message``; parts that are not known are left out.
    """

    def __init__(
        self,
        message: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        column: int | None = None,
        path: str = "",
    ) -> None:
        self.message, self.file, self.line, self.column, self.path = message, file, line, column, path
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(": ".join(part for part in (place, path, message) if part))


class TraceError(InputError):
    """A row of a command trace is malformed; ``str(error)`` reads ``file:line: message``."""

    def __init__(self, message: str, *, file: Path | str | None = None, line: int | None = None) -> None:
        self.message, self.file, self.line = message, file, line
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)


class WorkloadError(InputError):
    """A workload cannot be built."""


class MappingError(InputError):
    """A workload cannot be mapped onto this machine."""


class UnsupportedOp(MappingError):
    """No unit of the machine can run an operation."""


class CapacityExceeded(MappingError):
    """A memory of the machine is too small for what must lie in it."""


class UnknownName(InputError):
    """A name is not registered.

    The message lists the choices and, when one is close, asks "did you mean".
    """

    def __init__(self, kind: str, given: str, choices: Iterable[str]) -> None:
        self.kind, self.given, self.choices = kind, given, sorted(choices)
        super().__init__(
            f"{kind} must be one of {', '.join(self.choices) or '(none)'}, not {given!r}"
            f"{did_you_mean(given, self.choices)}"
        )


class ProgramError(PimsimError):
    """A command program breaks a static rule."""


class SimulationError(PimsimError):
    """The simulation cannot go on."""


class Deadlock(SimulationError):
    """Units wait for each other for ever; the message names each one and what it waits for."""


class Starvation(SimulationError):
    """A unit hardly ever gets what it shares with another; the message names the settings that decide it."""


class TimingViolation(SimulationError):
    """A command was issued against a timing rule or a bank state."""


class FunctionalMismatch(PimsimError):
    """A mapped program computed something else than the reference."""


class UnknownCoefficient(PimsimError):
    """An energy was asked for that has no coefficient."""


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest choice, or an empty string.

    >>> did_you_mean("chanels", ["channels", "rows"])
    "; did you mean 'channels'?"
    >>> did_you_mean("zzz", ["channels", "rows"])
    ''
    """
    close = difflib.get_close_matches(given, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
