"""Vision transformers on a streaming accelerator."""

from __future__ import annotations

import time

from pimsim.analysis.baselines import load_baseline
from pimsim.analysis.resources import resources
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
    for name in options.baselines:
        load_baseline(name)  # none of them is about encoders, but a wrong name is told
    fpga = arch.value.fpga
    if fpga.encoder is None:
        raise MappingError(
            f"{arch.value.name} must have a section fpga.encoder for {workload.value.name}; it computes attention only"
        )
    work = workload.value
    calls = encoder_calls(fpga, fpga.encoder, work)
    image = work.image
    patch_weights = 0 if image is None else image.patch**2 * image.channels * work.d_model
    needs = resources(fpga, work.heads, patch_weights)
    return run_calls(arch, workload, calls, options, start, needs)


def estimate_commands(_arch: Loaded[FpgaArchConfig], _workload: Loaded[EncoderConfig]) -> None:
    """A streaming machine records no DRAM commands."""
    return


__all__ = ["estimate_commands", "simulate"]
