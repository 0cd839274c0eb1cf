"""``pimsim replay``, ``verify-trace`` and ``trace-energy``: command traces against a DRAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pimsim.analysis.legality import check_trace
from pimsim.analysis.trace_energy import trace_energy
from pimsim.commands.configs import load_memory, load_spec
from pimsim.commands.output import whole_file, write_out
from pimsim.machine.replay import replay as replayed
from pimsim.report.si import si
from pimsim.trace.csvio import read_header, read_trace, write_trace


class _Stdout:
    """Standard output as something to write a trace to, in pieces that are large enough to be quick."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def write(self, text: str) -> int:
        """Keep a piece of text."""
        self._pieces.append(text)
        if len(self._pieces) >= 10_000:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what was kept."""
        write_out("".join(self._pieces))
        self._pieces.clear()


def replay(dram: str | None, arch: str | None, overrides: Sequence[str], trace: Path, out: Path | None) -> None:
    """Write the commands of a trace at their earliest legal cycles, in their order.

    Raises:
        InputError: the trace, the DRAM or an option is wrong.
        TimingViolation: a command finds a bank in the wrong state.
    """
    spec = load_spec(dram, arch, overrides)
    header = read_header(trace)
    columns = header if "cycle" in header else ("cycle", *header)
    commands = read_trace(trace, cycles=False)
    if out is not None:
        with whole_file(out) as file:
            write_trace(file, replayed(spec, commands, trace), columns)
        return
    stdout = _Stdout()
    write_trace(stdout, replayed(spec, commands, trace), columns)  # type: ignore[arg-type]
    stdout.flush()


def verify(dram: str | None, arch: str | None, overrides: Sequence[str], trace: Path) -> bool:
    """Print every violation of a trace, or that there is none; whether it is clean.

    Raises:
        InputError: the trace, the DRAM or an option is wrong.
    """
    spec = load_spec(dram, arch, overrides)
    violations = check_trace(spec, read_trace(trace), trace)
    write_out("".join(f"{violation}\n" for violation in violations) or "no violations\n")
    return not violations


def energy(dram: str | None, arch: str | None, overrides: Sequence[str], trace: Path) -> None:
    """Print the joules of a trace by component, and what has no coefficient.

    Raises:
        InputError: the trace, the DRAM or an option is wrong.
    """
    report = trace_energy(load_memory(dram, arch, overrides), read_trace(trace), file=trace)
    lines = [f"{component:<12} {si(joules, 'J', 4):>12}" for component, joules in report.by_component.items()]
    lines += [
        f"{'total':<12} {si(report.joules, 'J', 4):>12}",
        f"{'mean power':<12} {si(report.average_watts, 'W'):>12}",
    ]
    lines += [f"uncosted: {text}" for text in report.uncosted]
    write_out("\n".join(lines) + "\n")


__all__ = ["energy", "replay", "verify"]
