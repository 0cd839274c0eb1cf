"""What a design needs of an FPGA: the reported cost of every unit, in proportion to its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pimsim.errors import CapacityExceeded

if TYPE_CHECKING:  # results of all machines know this module
    from pimsim.arch.fpga import FpgaConfig, FpgaDevice, FpgaResources

KINDS = ("dsp", "bram18", "lut", "ff")


@dataclass(frozen=True)
class Resource:
    """One kind of resource: what the design needs, unit by unit, and what the device has."""

    needed: int
    available: int | None
    """None if no device is named."""
    by_unit: dict[str, int]


@dataclass(frozen=True)
class EncoderNeeds:
    """What a vision transformer asks of the units around attention."""

    patch_weights: int
    matrices: Mapping[str, int]
    """Use of the linear unit -> weights that it needs at once."""
    gelu_uses: int
    """Uses that are followed by GELU."""


def resources(fpga: FpgaConfig, heads: int, encoder: EncoderNeeds | None) -> dict[str, Resource]:
    """Kind -> need, for units that serve ``heads`` heads; empty if the machine names no costs.

    Args:
        fpga: the machine.
        heads: heads of the workload, as the units of attention work on all of them at once.
        encoder: of the rest of the workload; None if attention alone is computed.

    Raises:
        CapacityExceeded: the device has less of something than the design needs.
    """
    costs = fpga.resources
    if costs is None:
        return {}
    sizes = _sizes(fpga, heads, encoder)
    found = {kind: _need(costs, kind, sizes, attention_only=encoder is None) for kind in KINDS}
    if costs.device is not None:
        _check_fit(costs.device, found)
    return found


def _check_fit(device: FpgaDevice, found: Mapping[str, Resource]) -> None:
    short = [
        f"{kind} {_large(found[kind], there)}"
        for kind in KINDS
        if found[kind].needed > (there := getattr(device, kind))
    ]
    if short:
        raise CapacityExceeded(
            f"the design must fit {device.name}, which lacks {'; '.join(short)}. "
            "Less parallelism, a smaller tile or smaller buffers need less; --set arch.fpga.resources.device=null checks nothing"
        )


def _sizes(fpga: FpgaConfig, heads: int, encoder: EncoderNeeds | None) -> dict[str, int]:
    """What units grow with; 0 for a unit of a form that the machine does not have."""
    unit = fpga.attention
    single = unit.softmax == "single_pass"
    sizes = {
        "nothing": 1,
        "lanes": unit.parallelism,
        "single_pass_heads": heads if single else 0,
        "three_pass_heads": 0 if single else heads,
        "single_pass_scores": unit.parallelism * heads if single else 0,
    }
    if fpga.encoder is None or encoder is None:
        return sizes
    around = fpga.encoder
    separate = around.linear_units == "separate"
    tile = (around.separate_tile or around.tile) if separate else around.tile
    gelus = encoder.gelu_uses if separate else 1
    buffers = [min(weights, around.buffer_weights) for weights in encoder.matrices.values()]
    return sizes | {
        "multipliers": instances(fpga, encoder) * tile**2,
        "table_gelu_outputs": gelus * tile if around.gelu == "table" else 0,
        "direct_gelus": gelus * around.direct_gelu.units if around.gelu == "direct" and around.direct_gelu else 0,
        "buffer_weights": sum(buffers) if separate else 2 * around.buffer_weights,
        "patch_weights": encoder.patch_weights,
    }


def instances(fpga: FpgaConfig, encoder: EncoderNeeds) -> int:
    """Linear units: one, or one for each use."""
    separate = fpga.encoder is not None and fpga.encoder.linear_units == "separate"
    return len(encoder.matrices) if separate else 1


def _need(costs: FpgaResources, kind: str, sizes: Mapping[str, int], *, attention_only: bool) -> Resource:
    by_unit = {
        name: -(-getattr(cost, kind) * sizes[cost.grows_with] // cost.quantity)
        for name, cost in costs.units.items()
        if not (attention_only and cost.section == "encoder") and sizes[cost.grows_with]
    }
    return Resource(sum(by_unit.values()), getattr(costs.device, kind) if costs.device else None, by_unit)


def _large(resource: Resource, there: int) -> str:
    largest = sorted(resource.by_unit.items(), key=lambda entry: -entry[1])[:2]
    parts = ", ".join(f"{name} {count}" for name, count in largest)
    return f"({resource.needed} needed, {there} there; most for {parts})"


__all__ = ["KINDS", "EncoderNeeds", "Resource", "instances", "resources"]
