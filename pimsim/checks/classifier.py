"""Checks across fields of vision networks."""

from __future__ import annotations

from pimsim.loaded import Loaded
from pimsim.workload.classifier import ClassifierConfig


def check_classifier(loaded: Loaded[ClassifierConfig]) -> None:
    """Check that windows tile the tokens of every stage.

    Raises:
        ConfigError: they do not; the network would pad its windows there.
    """
    work = loaded.value
    if work.family != "efficientvit":
        return
    for number, side in enumerate(work.sides, start=1):
        if side % min(work.model.window, side):
            raise loaded.tree.error(
                f"must give stages that windows of side {work.model.window} tile, not {work.image}, which gives stage {number} "
                f"{side} x {side} tokens; padded windows are not supported",
                ("image",),
            )


__all__ = ["check_classifier"]
