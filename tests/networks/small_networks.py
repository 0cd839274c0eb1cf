"""Networks that are small enough for every engine."""

from __future__ import annotations

from pimsim.workload.networks.efficientvit import EfficientVit
from pimsim.workload.networks.network import VisionNetwork
from pimsim.workload.networks.shvit import Shvit

EFFICIENT = EfficientVit(
    widths=(16, 24), depths=(1, 1), heads=(2, 3), kernels=(3, 1), window=2, d_qk=4, classes=10, tile_words=400
)
SINGLE = Shvit(widths=(8, 16), depths=(2, 1), attended=(0, 6), d_qk=4, classes=10, tile_words=60)
WHOLE = EfficientVit(widths=(8, 16), depths=(1, 1), heads=(2, 2), kernels=(3,), d_qk=4, classes=5)
"""One strip for each layer of the stem, one group of channels."""

PADDED = EFFICIENT.model_copy(update={"window": 3})
"""Windows do not tile the tokens of its first stage."""

CASES: dict[str, tuple[VisionNetwork, int]] = {
    "efficientvit": (EFFICIENT, 64),
    "shvit": (SINGLE, 32),
    "whole": (WHOLE, 32),
    "padded": (PADDED, 64),
    "four tokens": (SINGLE, 64),
    "one token": (SINGLE, 16),
}
"""Network and side of its image."""

OVERRIDES = {
    "efficientvit_m0": (
        "workload.image=48", "workload.model.widths=[16,24]", "workload.model.depths=[1,1]", "workload.model.heads=[2,3]",
        "workload.model.kernels=[3]", "workload.model.d_qk=4", "workload.model.classes=10", "workload.tile_words=400",
        "workload.model.window=2",
    ),
    "shvit_s1": (
        "workload.image=32", "workload.model.widths=[8,16]", "workload.model.depths=[1,1]",
        "workload.model.attended=[0,6]", "workload.model.d_qk=4", "workload.model.classes=10", "workload.tile_words=100",
    ),
}  # fmt: skip
"""Shipped workload -> what makes a small one of it."""
