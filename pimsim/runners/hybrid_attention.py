"""Attention algorithms by themselves on hybrid machines: on the PIM side, as primitives are no kernels of the streaming unit."""

from __future__ import annotations

from dataclasses import replace

from pimsim.arch.hybrid import HybridConfig
from pimsim.config import Loaded
from pimsim.errors import UnsupportedOp
from pimsim.result import Result
from pimsim.runners import RunOptions, pim_attention
from pimsim.workload.attention_only import AttentionConfig


def simulate(arch: Loaded[HybridConfig], workload: Loaded[AttentionConfig], options: RunOptions) -> Result:
    """Time the algorithm on channels and ASIC; the streaming unit waits, and draws its idle power.

    Raises:
        UnsupportedOp: attention is placed on the streaming unit.
        MappingError, InputError: as `pim_attention.simulate`.
    """
    machine = arch.value
    if machine.placement == "stream_attention" or machine.fixed.get("attention") == "fpga":
        raise UnsupportedOp(
            f"{workload.value.algorithm} by itself must be on the PIM side of {machine.name} (placement pim_only or best_bound), "
            f"not placed by {machine.placement} on its streaming unit, which has kernels for the attention of decoders only"
        )
    return replace(pim_attention.simulate(arch, workload, options), placement={"attention": "pim"})  # type: ignore[arg-type]


estimate_commands = pim_attention.estimate_commands
attention_algorithms = pim_attention.attention_algorithms

__all__ = ["attention_algorithms", "estimate_commands", "simulate"]
