"""``pimsim baseline measure``: this machine as something to compare with."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pimsim.commands.output import choose, whole_file, write_out
from pimsim.errors import InputError
from pimsim.report.si import si
from pimsim.workload.config import WorkloadConfig
from pimsim.yamlio import dump


def measure(
    workload: str, overrides: Sequence[str], stack: str, repeats: int, out: Path | None, *, quiet: bool
) -> None:
    """Time the workload on this machine and write a baseline that ``--baseline`` accepts.

    Raises:
        InputError: the workload cannot be measured, or the file cannot be written.
    """
    from pimsim.analysis.measure import STACKS
    from pimsim.analysis.measure import measure as measure_here
    from pimsim.config import load_workload, split_overrides

    choose("stack", stack, STACKS)
    work = load_workload(workload, split_overrides(overrides, ["workload"])["workload"]).value
    if not isinstance(work, WorkloadConfig):
        raise InputError(f"--workload must be of kind decoder to be measured, not {work.kind}")
    name = re.sub(r"\W+", "_", f"measured_{stack}_{work.name}")
    table = measure_here(work, work.model, name, work.name, stack, repeats)
    text = dump(table.model_dump(exclude={"sources": True, "figures": {"__all__": {"context_to", "ms_to"}}}))
    if out is None:
        write_out(text)
    else:
        with whole_file(out) as file:
            file.write(text)
    if not quiet:
        joules = table.joules(work)
        energy = si(joules, "J") if joules is not None else "unknown (RAPL cannot be read)"
        print(f"{table.device}, {table.stack}: {si(table.seconds(work), 's')}, energy {energy}", file=sys.stderr)


__all__ = ["measure"]
