"""Figures of memories for `pimsim validate`: commands that a reference simulator issued, and closed forms.

``arch_configs/published/ramulator.zip`` holds command lists with the clock at which a reference simulator issued each.
The closed forms are measured: a list of commands is replayed, or requests are served, and the distances are read off.
"""

from __future__ import annotations

import itertools
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from pimsim import catalog
from pimsim.arch.dram import DramSpec
from pimsim.config import load_dram
from pimsim.machine.replay import replay
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.trace.csvio import TraceCommand, make_command, read_trace

MACHINE = "dram"
RECORDED = ("ddr4_3200aa", "gddr6_14000", "hbm2_2000")
PLAIN = (
    "ddr4_2133p", "ddr4_3200aa", "ddr5_4800b", "lpddr5_6400", "gddr6_14000", "gddr7_28000", "hbm2_2000", "hbm3_6400",
)  # fmt: skip
"""Standards without commands of their own for processing in memory."""

CONTROLLERS = {"ddr4_3200aa": "ddr4_memory", "hbm2_2000": "hbm2_memory"}
"""Standard -> the machine that has it behind a controller."""

_READS = 400
_STREAM = 40_000
"""Requests of a stream that many refreshes interrupt."""


class Step(NamedTuple):
    """A command of a list, with its bank."""

    command: str
    where: tuple[int, ...]


def _spec(standard: str) -> DramSpec:
    return load_dram(standard).value.resolve()


def _issued(spec: DramSpec, steps: Iterable[Step]) -> list[TraceCommand]:
    """The steps, each at its earliest tick."""
    return replay(spec, [make_command(spec, 0, command, 0, where, 0, 0) for command, where in steps])


def _banks(spec: DramSpec, banks: int) -> Iterator[tuple[int, ...]]:
    """Banks of the first rank, as far apart as they can be: other pseudo channels and bank groups first."""
    counts = dict(zip(spec.levels, spec.counts, strict=True))
    counts = {name: 1 if name in ("rank", "sid") else count for name, count in counts.items()}
    order = sorted(counts, key=["bank", "sid", "rank", "bankgroup", "pseudochannel"].index)
    places = itertools.product(*(range(counts[name]) for name in order))
    for place in itertools.islice(places, banks):
        named = dict(zip(order, place, strict=True))
        yield tuple(named[name] for name in spec.levels)


def _activate(spec: DramSpec, where: tuple[int, ...]) -> list[Step]:
    """One command, or the two steps of those that have two."""
    return [Step(name, where) for name in (("ACT1", "ACT2") if "ACT1" in spec.commands else ("ACT",))]


def _commands_exact(standard: str) -> float:
    """Commands of the recorded lists of a standard that replay issues at the recorded clock."""
    spec, found = _spec(standard), 0
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(_lists(standard)):
            path = Path(folder, f"{number}.csv")
            path.write_bytes(text)
            rows = read_trace(path)
            found += sum(a.cycle == b.cycle for a, b in zip(replay(spec, rows), rows, strict=True))
    return found


def _lists(standard: str) -> list[bytes]:
    with zipfile.ZipFile(catalog.folder("arch") / "published" / "ramulator.zip") as archive:
        return [archive.read(name) for name in sorted(archive.namelist()) if name.startswith(f"{standard}/")]


def _peak(standard: str) -> float:
    """1e9 byte/s of reads that find their rows open, dealt to all bank groups and pseudo channels."""
    spec = _spec(standard)
    banks = list(_banks(spec, 16))
    opened = [step for where in banks for step in _activate(spec, where)]
    reads = [Step("RD", where) for where in itertools.islice(itertools.cycle(banks), _READS)]
    ticks = [row.cycle for row in _issued(spec, [*opened, *reads]) if row.command == "RD"]
    settled = ticks[-_READS // 2 :]
    return (len(settled) - 1) * spec.burst_bytes / ((settled[-1] - settled[0]) * spec.tick_seconds) / 1e9


def _row_cycle(standard: str) -> float:
    """Clocks from one activate of a bank to the next."""
    spec = _spec(standard)
    (where,) = _banks(spec, 1)
    rows = _issued(spec, [*_activate(spec, where), Step("PREpb", where), *_activate(spec, where)])
    first, second = (row.cycle for row in rows if row.command in ("ACT", "ACT1"))
    return (second - first) / spec.ticks_per_clock


def _five_activates(standard: str) -> float:
    """Clocks from an activate to the fourth behind it, each in another bank of one pseudo channel and, at first, group."""
    spec = _spec(standard)
    counts = dict(zip(spec.levels, spec.counts, strict=True))
    banks = [where for where in _banks(spec, 16) if "pseudochannel" not in counts or not where[0]]
    rows = _issued(spec, [step for where in banks[:5] for step in _activate(spec, where)])
    ticks = [row.cycle for row in rows if row.command in ("ACT", "ACT1")]
    return (ticks[4] - ticks[0]) / spec.ticks_per_clock


@cache
def _served(standard: str, policy: str) -> Result:
    """A stream of reads behind a controller."""
    settings = [f"workload.count={_STREAM}", f"arch.controller.refresh.policy={policy}"]
    return simulate(CONTROLLERS[standard], "requests_sequential", overrides=settings)


def _refresh_share(standard: str) -> float:
    """Share of the time that a stream loses when all banks are refreshed together."""
    with_refresh, without = (_served(standard, policy).time.cycles for policy in ("all_bank", "none"))
    return 1 - without / with_refresh


def _idle_read(standard: str) -> float:
    """Clocks from the arrival of a read at an idle memory to its last word."""
    settings = ["workload.count=100", "workload.stream.interval=2000", "arch.controller.page=closed"]
    result = simulate(
        CONTROLLERS[standard], "requests_random", overrides=[*settings, "arch.controller.refresh.policy=none"]
    )
    assert result.requests is not None
    assert result.requests.read_latency is not None
    return round(result.requests.read_latency.mean * result.time.clock_hz, 6)


FIGURES: dict[str, Callable[[], float]] = {
    **{f"{standard}/commands_exact": partial(_commands_exact, standard) for standard in RECORDED},
    **{f"{standard}/peak_gb_per_s": partial(_peak, standard) for standard in PLAIN},
    **{f"{standard}/row_cycle_clocks": partial(_row_cycle, standard) for standard in PLAIN},
    **{f"{standard}/five_activates_clocks": partial(_five_activates, standard) for standard in PLAIN},
    **{f"{standard}/refresh_share": partial(_refresh_share, standard) for standard in CONTROLLERS},
    **{f"{standard}/idle_read_clocks": partial(_idle_read, standard) for standard in CONTROLLERS},
}
"""Figure -> how it is found."""

NOTES = {
    "refresh_share": "a refresh also costs closing the banks before it and opening rows behind it",
    "peak_gb_per_s": "the clock period is a rounded one",
}
"""Why a figure may differ, by the start of its name."""


__all__ = ["FIGURES", "MACHINE", "NOTES"]
