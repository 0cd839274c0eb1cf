"""What a sweep file says: axes, derived values, constraints and objectives."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pimsim.model import Model, PositiveInt

Value = Any
"""A value of a field: a scalar, or a list or mapping that takes its place as a whole."""


class RandomAxis(Model):
    """Where the values of a random axis are drawn from: ``choices``, or the range from ``low`` to ``high``."""

    choices: list[Value] | None = Field(None, min_length=1, description="drawn with equal chances")
    low: int | float | None = Field(None, description="smallest value; whole if low, high and step all are")
    high: int | float | None = Field(None, description="largest value, itself included")
    step: int | float | None = Field(None, gt=0, description="distance of the values, counted from low")
    log: bool = Field(False, description="draw the logarithm with equal chances")


class RandomAxes(Model):
    """Points that are drawn at random, all axes at once."""

    samples: PositiveInt = Field(description="points to draw")
    axes: dict[str, RandomAxis] = Field(min_length=1, description="dotted path -> where its values come from")


class Objective(Model):
    """A figure that is to be small or large."""

    value: str = Field(description="expression in figures of the result and in paths of arch and workload")
    goal: Literal["minimize", "maximize"] = "minimize"


class SweepConfig(Model):
    """A sweep: what to vary, and what to look at. Paths start with ``arch.`` or ``workload.``, or are just one of the two."""

    name: str
    description: str = ""
    arch: str = Field(description="shipped name or file")
    workload: str = Field(description="shipped name or file")
    engine: Literal["fast", "reference"] = "fast"
    set: dict[str, Value] = Field(default_factory=dict, description="path -> value of every point")
    axes: dict[str, list[Value]] = Field(
        default_factory=dict, description="path -> values; every combination is a point"
    )
    zip: list[dict[str, list[Value]]] = Field(
        default_factory=list, description="groups of axes of equal length that advance together"
    )
    points: list[dict[str, Value]] = Field(default_factory=list, description="a list of settings, one after the other")
    random: RandomAxes | None = Field(None, description="settings that are drawn at random")
    derived: dict[str, str] = Field(
        default_factory=dict, description="path -> expression in other paths, such as 2 * arch.pim.multipliers"
    )
    constraints: list[str] = Field(
        default_factory=list, description="expressions that must hold; other combinations are no points"
    )
    objectives: dict[str, Objective] = Field(default_factory=dict, description="name -> what is to be small or large")
    seed: int = Field(0, description="of everything that is drawn at random")


__all__ = ["Objective", "RandomAxes", "RandomAxis", "SweepConfig"]
