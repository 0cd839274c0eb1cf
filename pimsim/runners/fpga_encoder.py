"""Encoders of images and texts on a streaming accelerator."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pimsim.analysis.baselines import image_baselines
from pimsim.analysis.resources import EncoderNeeds, instances, resources
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.config import Loaded
from pimsim.errors import MappingError
from pimsim.mapper.fpga.encoder import check, encoder_calls
from pimsim.program.works import Routes
from pimsim.result import Result, Routing
from pimsim.runners import RunOptions, streaming
from pimsim.runners.streaming import run_calls
from pimsim.workload.encoder import EncoderConfig


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[EncoderConfig], options: RunOptions) -> Result:
    """Time one image or text, call after call, beat by beat; its numbers, if they are asked for or decide the routing."""
    start = time.perf_counter()
    baselines = image_baselines(options.baselines, workload.value)
    fpga = arch.value.fpga
    if fpga.encoder is None:
        raise MappingError(
            f"{arch.value.name} must have a section fpga.encoder for {workload.value.name}; it computes attention only"
        )
    work = workload.value
    check(fpga, fpga.encoder, work)
    around = encoder_needs(work)
    needs = resources(fpga, work.heads, around)
    functional = None
    if options.check_tokens or by_gates(work):
        from pimsim.runners.fpga_check import EncoderNumbers  # numpy is only needed here

        numbers = EncoderNumbers(fpga, arch.value.name, work)
        calls, routes = numbers.program.calls, numbers.routes
        functional = numbers.check() if options.check_tokens else None
    else:
        calls, routes = encoder_calls(fpga, fpga.encoder, work), work.routes
    result = run_calls(arch, workload, calls, options, start, needs, instances(fpga, around), baselines)
    return replace(result, functional=functional, routing=_routing(work, routes))


def by_gates(work: EncoderConfig) -> bool:
    """Whether only a run on numbers knows the routing."""
    return work.moe is not None and work.moe.routing == "gates"


def _routing(work: EncoderConfig, routes: Callable[[int], Routes]) -> Routing | None:
    """Where routing came from, and the tokens of each expert in each layer that has some."""
    if work.moe is None:
        return None
    source: Literal["given", "drawn", "gates"] = "gates" if by_gates(work) else "given"
    if work.moe.routing is None:
        source = "drawn"
    queues = {}
    for layer in filter(work.is_moe, range(work.layers)):
        counts = Counter(expert for experts in routes(layer) for expert in experts)
        queues[f"block {layer}"] = [counts[expert] for expert in range(work.moe.experts)]
    return Routing(source, queues)


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
    image = work.image
    patch_weights = 0 if image is None else image.patch**2 * image.channels * d
    return EncoderNeeds(patch_weights, matrices, dense + experts)


def estimate_commands(arch: Loaded[FpgaArchConfig], workload: Loaded[EncoderConfig]) -> int | None:
    """DRAM commands of the run, about; None if no DRAM is behind the ports, or only the gates know the routing."""
    fpga, work = arch.value.fpga, workload.value
    if fpga.encoder is None or by_gates(work):
        return None
    return streaming.estimate_commands(fpga, encoder_calls(fpga, fpga.encoder, work))


__all__ = ["by_gates", "encoder_needs", "estimate_commands", "simulate"]
