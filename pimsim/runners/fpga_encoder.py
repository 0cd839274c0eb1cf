"""Vision transformers on a streaming accelerator."""

from __future__ import annotations

import time

from pimsim.analysis.baselines import image_baselines
from pimsim.analysis.resources import EncoderNeeds, instances, resources
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.config import Loaded
from pimsim.errors import MappingError
from pimsim.mapper.fpga.encoder import encoder_calls
from pimsim.result import Result
from pimsim.runners import RunOptions
from pimsim.runners.streaming import run_calls
from pimsim.workload.encoder import EncoderConfig


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[EncoderConfig], options: RunOptions) -> Result:
    """Time one image, call after call, beat by beat."""
    start = time.perf_counter()
    baselines = image_baselines(options.baselines, workload.value)
    fpga = arch.value.fpga
    if fpga.encoder is None:
        raise MappingError(
            f"{arch.value.name} must have a section fpga.encoder for {workload.value.name}; it computes attention only"
        )
    work = workload.value
    calls = encoder_calls(fpga, fpga.encoder, work)
    around = encoder_needs(work)
    needs = resources(fpga, work.heads, around)
    return run_calls(arch, workload, calls, options, start, needs, instances(fpga, around), baselines)


def encoder_needs(work: EncoderConfig) -> EncoderNeeds:
    """Matrices of a vision transformer, by use, and the weights of its patch embedding."""
    d, dense = work.d_model, any(not work.is_moe(layer) for layer in range(work.layers))
    matrices = dict.fromkeys(("query", "key", "value", "output_projection"), d * d)
    if dense:
        matrices |= dict.fromkeys(("ffn_up", "ffn_down"), d * work.d_ff)
    experts = work.moe is not None and any(work.is_moe(layer) for layer in range(work.layers))
    if work.moe is not None and experts:
        matrices |= dict.fromkeys(("moe_up", "moe_down"), d * work.moe.d_expert)
    if work.classes is not None:
        matrices["classifier"] = d * work.classes
    return EncoderNeeds(work.image.patch**2 * work.image.channels * d, matrices, dense + experts)


def estimate_commands(_arch: Loaded[FpgaArchConfig], _workload: Loaded[EncoderConfig]) -> None:
    """A streaming machine records no DRAM commands."""
    return


__all__ = ["encoder_needs", "estimate_commands", "simulate"]
