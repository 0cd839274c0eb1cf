"""What a design needs of an FPGA: the reported cost of every unit, in proportion to its size."""

from __future__ import annotations

from dataclasses import dataclass

from pimsim.arch.fpga import FpgaConfig, FpgaResources
from pimsim.errors import CapacityExceeded

KINDS = ("dsp", "bram18", "lut", "ff")


@dataclass(frozen=True)
class Resource:
    """One kind of resource: what the design needs, unit by unit, and what the device has."""

    needed: int
    available: int
    by_unit: dict[str, int]


def resources(fpga: FpgaConfig, heads: int, patch_weights: int | None) -> dict[str, Resource]:
    """Kind -> need, for units that serve ``heads`` heads; empty if the machine names no device.

    Args:
        fpga: the machine.
        heads: heads of the workload, as the units of attention work on all of them at once.
        patch_weights: weights of the patch embedding; None if attention alone is computed.

    Raises:
        CapacityExceeded: the device has less of something than the design needs.
    """
    if fpga.resources is None:
        return {}
    found = {kind: _need(fpga, fpga.resources, kind, heads, patch_weights) for kind in KINDS}
    short = [f"{kind} {_large(found[kind])}" for kind in KINDS if found[kind].needed > found[kind].available]
    if short:
        raise CapacityExceeded(
            f"the design must fit {fpga.resources.device.name}, which lacks {'; '.join(short)}. "
            "Less parallelism, a smaller tile or smaller buffers need less; --set arch.fpga.resources=null checks nothing"
        )
    return found


def _need(fpga: FpgaConfig, costs: FpgaResources, kind: str, heads: int, patch_weights: int | None) -> Resource:
    sizes = {
        "lanes": fpga.attention.parallelism,
        "heads": heads,
        "scores": fpga.attention.parallelism * heads,
        "nothing": 1,
    }
    if fpga.encoder is not None and patch_weights is not None:
        sizes |= {
            "multipliers": fpga.encoder.tile**2,
            "buffer_weights": fpga.encoder.buffer_weights,
            "patch_weights": patch_weights,
        }
    by_unit = {
        name: -(-getattr(cost, kind) * sizes[cost.grows_with] // cost.quantity)
        for name, cost in costs.units.items()
        if cost.section == "attention" or patch_weights is not None
    }
    return Resource(sum(by_unit.values()), getattr(costs.device, kind), by_unit)


def _large(resource: Resource) -> str:
    largest = sorted(resource.by_unit.items(), key=lambda entry: -entry[1])[:2]
    parts = ", ".join(f"{name} {count}" for name, count in largest)
    return f"({resource.needed} needed, {resource.available} there; most for {parts})"


__all__ = ["KINDS", "Resource", "resources"]
