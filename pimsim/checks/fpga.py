"""Checks across fields of a streaming accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pimsim.checks.dram import check_dram, check_limits
from pimsim.checks.sources import check_sources
from pimsim.errors import did_you_mean
from pimsim.loaded import Loaded
from pimsim.yamlio import FieldPath, Tree

_STREAMS = ("query", "key", "value", "scores", "statistics", "output")
"""Streams of the attention unit that need a port."""

_ENCODER_STREAMS = ("image", "residual", "normed", "projected", "hidden", "parameters")
"""Streams of the units around attention that need a port."""


def check_fpga(loaded: Loaded[Any]) -> None:
    """Check what must hold between fields of a streaming accelerator.

    Raises:
        ConfigError: a beat is not a whole number of words, a port is narrower than a word, a port is named twice, or a
            stream has no port of the machine.
    """
    check_sources(loaded)
    tree, fpga = loaded.tree, loaded.value.fpga
    ports, placement = fpga.ports, fpga.attention.placement
    if fpga.beat_bits % fpga.word_bits:
        raise tree.error(
            f"must be a multiple of word_bits, which is {fpga.word_bits}, not {fpga.beat_bits}", ("fpga", "beat_bits")
        )
    if ports.width_bits < fpga.word_bits:
        raise tree.error(
            f"must be at least word_bits, which is {fpga.word_bits}, so that a port is no narrower than a word, "
            f"not {ports.width_bits}",
            ("fpga", "ports", "width_bits"),
        )
    if len(set(ports.names)) != len(ports.names):
        raise tree.error(f"must name each port once, not {', '.join(ports.names)}", ("fpga", "ports", "names"))
    if fpga.memory is not None:
        _check_memory(tree, fpga.memory)
    at: FieldPath = ("fpga", "attention", "placement")
    if set(placement) != set(_STREAMS):
        raise tree.error(f"must place exactly {', '.join(_STREAMS)}, not {', '.join(placement)}", at)
    _check_placement(tree, placement, ports.names, at)
    if fpga.attention.softmax == "three_pass" and fpga.attention.three_pass is None:
        raise tree.error("must be given, as softmax is three_pass", ("fpga", "attention", "three_pass"))
    if fpga.encoder is not None:
        _check_encoder(tree, fpga)
    if fpga.primitives is not None and fpga.primitives.arithmetic == "fixed" and fpga.formats is None:
        raise tree.error(
            "must be float32, as the machine has no fpga.formats, not 'fixed'", ("fpga", "primitives", "arithmetic")
        )
    for number, port in enumerate(fpga.primitives.ports if fpga.primitives is not None else ()):
        _check_placement(tree, {str(number): port}, ports.names, ("fpga", "primitives", "ports"))


def _check_memory(tree: Tree, memory: Any) -> None:
    at: FieldPath = ("fpga", "memory", "dram")
    if memory.dram is None:
        if memory.kind == "dram":
            raise tree.error("must be given, as kind is dram", at)
        return
    check_dram(tree, memory.dram, at)
    check_limits(tree, memory.dram, at)
    plain = [(c.effect, c.data) for c in memory.dram.commands.values() if c.scope == list(memory.dram.levels)[-1]]
    for effect, data in (("open", "none"), ("close", "none"), ("none", "read"), ("none", "write")):
        if (effect, data) not in plain:
            raise tree.error(
                f"must have a command of one bank with effect {effect} and data {data} behind memory ports",
                (*at, "commands"),
            )
    before = [c.after for c in memory.dram.commands.values() if c.after is not None]
    before += [
        name
        for name, c in memory.dram.commands.items()
        if (c.effect, c.data, c.needs) == ("none", "none", "any") and c.scope == list(memory.dram.levels)[-1]
    ]
    if before:
        raise tree.error(
            f"must open, read and write a bank with one command each behind memory ports; {memory.dram.name} needs "
            f"{', '.join(before)} before",
            (*at, "commands"),
        )


def _check_placement(tree: Tree, placement: Mapping[str, str], ports: list[str], at: FieldPath) -> None:
    for stream, port in placement.items():
        if port not in ports:
            raise tree.error(
                f"must be one of {', '.join(ports)}, not {port!r}{did_you_mean(port, ports)}", (*at, stream)
            )


def _check_encoder(tree: Tree, fpga: Any) -> None:
    encoder, words, at = fpga.encoder, fpga.beat_bits // fpga.word_bits, ("fpga", "encoder")
    if encoder.linear_units == "separate" and encoder.separate_tile is None:
        raise tree.error("must be given, as linear_units is separate", (*at, "separate_tile"))
    if encoder.gelu == "direct" and encoder.direct_gelu is None:
        raise tree.error("must be given, as gelu is direct", (*at, "direct_gelu"))
    for name in ("tile", "separate_tile"):
        tile = getattr(encoder, name)
        if tile is not None and tile % words:
            raise tree.error(f"must be a multiple of the words of a beat, which are {words}, not {tile}", (*at, name))
    for name in ("weight_bits", "pixel_bits"):
        bits = getattr(encoder, name)
        if fpga.beat_bits % bits:
            raise tree.error(f"must divide beat_bits, which is {fpga.beat_bits}, not {bits}", (*at, name))
    placement = encoder.placement
    if set(placement) != set(_ENCODER_STREAMS):
        raise tree.error(
            f"must place exactly {', '.join(_ENCODER_STREAMS)}, not {', '.join(placement)}", (*at, "placement")
        )
    _check_placement(tree, placement, fpga.ports.names, (*at, "placement"))
    brings = {str(number): port for number, port in enumerate(encoder.weight_ports or ())}
    _check_placement(tree, brings, fpga.ports.names, (*at, "weight_ports"))
    if len(set(brings.values())) != len(brings):
        raise tree.error(f"must name each port once, not {', '.join(brings.values())}", (*at, "weight_ports"))
    shared = [name for name in ("normed", "hidden", "projected") if placement[name] == placement["parameters"]]
    if encoder.weight_prefetch != "none" and shared:
        raise tree.error(
            f"must be a port without {shared[0]}, as weights come while an expert computes, not {placement['parameters']}",
            (*at, "placement", "parameters"),
        )


__all__ = ["check_fpga"]
