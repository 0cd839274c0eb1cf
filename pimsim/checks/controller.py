"""Checks of a controller of plain requests against the memory that it serves."""

from __future__ import annotations

from typing import Any

from pimsim.arch.controller import SchedulerConfig, check_controller
from pimsim.arch.dram import DramSpec
from pimsim.errors import ConfigError
from pimsim.loaded import Loaded
from pimsim.yamlio import FieldPath


def check_controller_of(loaded: Loaded[Any], spec: DramSpec, controller: SchedulerConfig, at: FieldPath) -> None:
    """`check_controller`, with errors at their place in the file.

    Raises:
        ConfigError: the DRAM does not say how long a burst is, or the controller does not fit it.
    """
    if not spec.timing.get("nBL"):
        raise loaded.tree.error("must have nBL, the clocks of a burst on the data pins", ("dram", "timing"))
    try:
        check_controller(spec, controller)
    except ConfigError as error:
        raise loaded.tree.error(error.message, (*at, *error.path.split(".")[1:])) from None


__all__ = ["check_controller_of"]
