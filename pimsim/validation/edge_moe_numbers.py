"""Errors of Edge-MoE's approximations and of its whole image for `pimsim validate`: figures of numbers, not of time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from pimsim.config import load_arch
from pimsim.run import simulate

_ARCH = "edge_moe_zcu102"


def _formats() -> Any:
    return load_arch(_ARCH).value.fpga.formats


@cache
def _gelu() -> Any:
    from pimsim.functional.streaming.errors import gelu_errors  # numpy is only needed here

    return gelu_errors(_formats())


@cache
def _softmax() -> Any:
    from pimsim.functional.streaming.errors import softmax_errors

    return softmax_errors(_formats())


@cache
def _image() -> dict[str, Any]:
    functional = simulate(_ARCH, "m3vit_cityscapes", check_tokens=1).functional
    assert functional is not None
    return functional


FIGURES: dict[str, Callable[[], float]] = {
    "numbers/gelu_max_error": lambda: float(_gelu().largest),
    "numbers/gelu_mean_error": lambda: float(_gelu().mean),
    "numbers/gelu_max_error_without_interpolation": lambda: float(_gelu().without_interpolation),
    "numbers/gelu_peak_entry": lambda: float(_gelu().largest_entry),
    "numbers/softmax_max_error": lambda: float(_softmax().largest),
    "numbers/softmax_rms_error": lambda: float(_softmax().rms),
    "numbers/softmax_row_sum_error": lambda: float(_softmax().row_sum),
    "numbers/image_mean_abs_error": lambda: float(_image()["mean_abs_error"]),
}
"""Figure -> how it is found."""

NOTES = {
    "softmax": "published for the scores of the shipped image; here for seeded normal ones",
    "image": "published for trained weights and the shipped image; here for seeded ones",
}
"""Why a figure may differ, by the start of its name."""


__all__ = ["FIGURES", "NOTES"]
