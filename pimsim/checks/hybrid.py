"""Checks across fields of a hybrid machine."""

from __future__ import annotations

from typing import Any

from pimsim.arch.formats import FLOAT_BITS, format_bytes
from pimsim.arch.hybrid import PLACEABLE, PLACEABLE_PRODUCTS
from pimsim.checks.pim import check_arch
from pimsim.errors import did_you_mean
from pimsim.loaded import Loaded
from pimsim.yamlio import FieldPath


def check_hybrid(loaded: Loaded[Any]) -> None:
    """Check what must hold between fields of a hybrid machine.

    Raises:
        ConfigError: as `check_arch`, or lanes have no ports, a beat is not a whole number of elements, or work is fixed
            to a side though the placement is another one.
    """
    check_arch(loaded)  # a hybrid machine has all that a PIM machine has
    tree, arch = loaded.tree, loaded.value
    fpga, element = arch.fpga, 8 * format_bytes(arch.pim.format)
    if arch.pim.format not in FLOAT_BITS:
        raise tree.error(
            f"must be {', '.join(FLOAT_BITS)} on a hybrid machine, not {arch.pim.format!r}", ("pim", "format")
        )
    for name in ("beat_bits", "ports.width_bits"):
        at: FieldPath = ("fpga", *name.split("."))
        given = fpga.beat_bits if name == "beat_bits" else fpga.ports.width_bits
        if given % element:
            raise tree.error(f"must be a multiple of the {element} bits of a {arch.pim.format}, not {given}", at)
    for name, lanes, ports in (("attention", fpga.attention.lanes, 2), ("linear", fpga.linear.lanes, 1)):
        if lanes * ports > fpga.ports.count:
            most = fpga.ports.count // ports
            per = "two ports, one for keys and one for values" if ports == 2 else "a port"
            raise tree.error(
                f"must be at most {most}, as each lane has {per}, of {fpga.ports.count}, not {lanes}",
                ("fpga", name, "lanes"),
            )
    for field, given, choices in (
        ("fixed", arch.fixed, PLACEABLE),
        ("fixed_prompt", arch.fixed_prompt, PLACEABLE_PRODUCTS),
    ):
        for work in given:
            if work not in choices:
                raise tree.error(
                    f"must be about {', '.join(choices)}, not {work!r}{did_you_mean(work, choices)}", (field, work)
                )
        if given and arch.placement != "fixed":
            raise tree.error(f"must be left out unless placement is fixed, not {arch.placement}", (field,))
    if arch.dispatch == "serial":
        raise tree.error("must be overlap on a hybrid machine, not 'serial'", ("dispatch",))


__all__ = ["check_hybrid"]
