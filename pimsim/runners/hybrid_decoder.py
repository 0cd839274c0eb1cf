"""Decoders on hybrid machines: PIM channels, ASIC, link and streaming unit in one program."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from pimsim.arch.formats import format_bytes
from pimsim.arch.hybrid import LINK_IN, LINK_OUT, HybridConfig
from pimsim.config import Loaded
from pimsim.machine.hybrid import RunRegion, further_units
from pimsim.mapper.hybrid import HybridMapping
from pimsim.result import Link, Op, Result
from pimsim.runners import RunOptions, pim_decoder
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import WorkloadConfig


def simulate(arch: Loaded[HybridConfig], workload: Loaded[WorkloadConfig], options: RunOptions) -> Result:
    """Time the decoder command by command and, on the streaming unit, beat by beat."""
    units = further_units(arch.value, _region_engine(options.engine))
    result, mapping, totals = pim_decoder.run(arch, workload, options, units)
    assert isinstance(mapping, HybridMapping)
    return replace(
        result,
        ops={kind: replace(op, unit=_unit_of(kind, op, totals)) for kind, op in result.ops.items()},
        placement=dict(mapping.sides),
        prompt_placement=dict(mapping.prompt_sides) if workload.value.prefill == "matrix" else None,
        links=_links(arch.value, totals),
    )


estimate_commands = pim_decoder.estimate_commands


def _region_engine(name: str) -> RunRegion:
    if name == "fast":
        from pimsim.machine.fpga.fast import run_region

        return run_region
    from pimsim.machine.fpga.reference import run_region as run_beats  # SimPy is only needed here

    return run_beats


def _unit_of(kind: str, op: Op, totals: RunTotals) -> str | None:
    """The unit that works for a kind of operation; None for what no unit is asked to do, such as standby."""
    if any(of == kind for _, of, _ in totals.link_elements):
        return "link"
    if any(of == kind for unit, of, _ in totals.unit_cycles if unit == "fpga"):
        return "fpga"
    if any(of == kind for of, _ in totals.asic_cycles):
        return "asic"
    return "channels" if op.count else None


def _links(arch: HybridConfig, totals: RunTotals) -> dict[str, Link]:
    elements: Counter[str] = Counter()
    for (link, _, _), n in totals.link_elements.items():
        elements[link] += n
    size, price = format_bytes(arch.pim.format), arch.link.pj_per_bit
    return {
        name: Link(elements[name] * size, None if price is None else elements[name] * size * 8 * price * 1e-12)
        for name in (LINK_IN, LINK_OUT)
    }


__all__ = ["estimate_commands", "simulate"]
