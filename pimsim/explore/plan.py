"""From a sweep file to points: checked as a whole before the first run, and made one at a time."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pimsim
from pimsim import catalog
from pimsim.config import Loaded, arch_of, base_tree, workload_of
from pimsim.errors import ConfigError, InputError, did_you_mean
from pimsim.explore.config import RandomAxis, SweepConfig
from pimsim.explore.expressions import Expression, ExpressionError
from pimsim.yamlio import Tree, load_tree, resolve_scalar, validate

_FOLDER = re.compile(r"(?!\.)[^\x00-\x1f\x7f/\\]{1,100}")
"""Names of sweeps, whose results lie in ``runs/NAME`` if nothing else is said."""

MAX_COMBINATIONS = 1_000_000
"""Combinations of one sweep before constraints."""

FIGURES = (
    "cycles",
    "seconds",
    "seconds_per_token",
    "tokens_per_second",
    "joules",
    "joules_per_token",
    "average_watts",
    "row_hit_rate",
    "refreshes",
    "commands",
    "interface_bytes",
    "interface_reduction",
    "attention_tokens_per_step",
    "request_bandwidth",
    "read_latency",
    "slowdown",
)
"""Figures that an objective may read: those of `Result.figures` without the wall clock."""

Setting = dict[str, Any]
"""Path -> value."""


@dataclass(frozen=True)
class Point:
    """One run: its number in the plan, and every value that differs from the files."""

    number: int
    setting: Setting


@lru_cache(maxsize=64)
def base(kind: str, name: str) -> tuple[Tree, Path]:
    """The file of an architecture or workload, read once in each process."""
    return base_tree(kind, name)


@lru_cache(maxsize=64)
def _base_content(kind: str, name: str) -> dict[str, Any]:
    tree, path = base(kind, name)
    return (arch_of if kind == "arch" else workload_of)(tree, path).content


@lru_cache(maxsize=16)
def _resolve(kind: str, name: str, overrides: tuple[tuple[str, str], ...]) -> Loaded[Any]:
    tree, path = base(kind, name)
    return (arch_of if kind == "arch" else workload_of)(tree, path, overrides)


def resolve(setting: Setting) -> tuple[Loaded[Any], Loaded[Any]]:
    """The architecture and the workload of a point.

    Raises:
        InputError: a value is wrong.
    """
    found = []
    for kind in ("arch", "workload"):
        rest = {path.removeprefix(f"{kind}."): value for path, value in setting.items() if path.startswith(f"{kind}.")}
        found.append(_resolve(kind, setting[kind], tuple((path, json.dumps(value)) for path, value in rest.items())))
    return found[0], found[1]


def look_up(setting: Setting, path: str) -> Any:
    """The value of a path at a point, or that of its file.

    Raises:
        ExpressionError: there is no such value.
    """
    if path in setting:
        return setting[path]
    kind, _, rest = path.partition(".")
    if kind not in ("arch", "workload"):
        raise ExpressionError(f"a name must start with arch. or workload., not {path!r}")
    here: Any = _base_content(kind, setting[kind])
    for part in rest.split("."):
        if not isinstance(here, dict) or part not in here:
            known = list(here) if isinstance(here, dict) else []
            raise ExpressionError(f"a name must be a field of the {kind}, not {path!r}{did_you_mean(part, known)}")
        here = here[part]
    return here


@dataclass(frozen=True)
class Plan:
    """A sweep whose file has been checked."""

    config: SweepConfig
    tree: Tree
    fixed: Setting
    search: Setting | None = None
    """How points are chosen if they are not taken one after the other."""

    @cached_property
    def paths(self) -> dict[str, str]:
        """Every varied path and how it varies, in the order of the columns."""
        config = self.config
        groups: list[tuple[str, Iterable[str]]] = [("grid", config.axes), *(("zip", group) for group in config.zip)]
        groups += [("points", entry) for entry in config.points[:1]]
        groups += [("random", config.random.axes)] if config.random else []
        groups += [("derived", config.derived)]
        return {path: how for how, group in groups for path in group}

    @cached_property
    def dimensions(self) -> list[Sequence[Setting]]:
        """What is combined: each dimension is a row of settings."""
        config = self.config
        found: list[Sequence[Setting]] = []
        found += [
            [dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)] for group in config.zip
        ]
        found += [[{path: v} for v in values] for path, values in config.axes.items()]
        if config.points:
            found.append(config.points)
        if config.random:
            axes = config.random.axes
            found.append(
                [{p: draw(axis, config.seed, p, n) for p, axis in axes.items()} for n in range(config.random.samples)]
            )
        return found

    @cached_property
    def _rules(self) -> tuple[dict[str, Expression], list[Expression]]:
        derived = {path: Expression(text) for path, text in self.config.derived.items()}
        return derived, [Expression(text) for text in self.config.constraints]

    def combinations(self) -> int:
        """How many there are before constraints."""
        return math.prod(len(rows) for rows in self.dimensions)

    def points(self) -> Iterator[Point]:
        """Every point in the order of the file, the last dimension fastest; nothing is kept."""
        number = 0
        for rows in itertools.product(*self.dimensions):
            setting = self.complete(rows)
            if setting is not None:
                yield Point(number, setting)
                number += 1

    def complete(self, rows: Iterable[Setting]) -> Setting | None:
        """The setting of one row of each dimension with all derived values; None if a constraint excludes it.

        Raises:
            ExpressionError: an expression names what there is not.
        """
        derived, constraints = self._rules
        setting: Setting = {"arch": self.config.arch, "workload": self.config.workload, **self.fixed}
        for row in rows:
            setting |= row
        for path, expression in derived.items():
            setting[path] = expression.evaluate(lambda name: look_up(setting, name))
        return setting if all(rule.evaluate(lambda name: look_up(setting, name)) for rule in constraints) else None

    @cached_property
    def count(self) -> int:
        """How many points there are."""
        return sum(1 for _ in self.points()) if self.config.constraints else self.combinations()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides about the figures: the sweep, the files that it names, and the version."""
        names = {(kind, point.setting[kind]) for point in self.points() for kind in ("arch", "workload")}
        contents = [[kind, name, _base_content(kind, name)] for kind, name in sorted(names)]
        how = [] if self.search is None else [self.search]
        text = json.dumps([pimsim.__version__, self.config.model_dump(mode="json"), self.fixed, contents, *how])
        return hashlib.sha256(text.encode()).hexdigest()


def draw(axis: RandomAxis, seed: int, path: str, number: int) -> Any:
    """The value of a random axis at one sample; it depends on nothing but the arguments."""
    source = random.Random(f"{seed}:{path}:{number}")  # noqa: S311
    if axis.choices is not None:
        return source.choice(axis.choices)
    assert axis.low is not None
    assert axis.high is not None
    if axis.log:
        value: float = math.exp(source.uniform(math.log(axis.low), math.log(axis.high)))
    elif axis.step is not None:
        return axis.low + axis.step * source.randint(0, int((axis.high - axis.low) // axis.step))
    else:
        value = source.uniform(axis.low, axis.high)
    whole = isinstance(axis.low, int) and isinstance(axis.high, int)
    return min(max(round(value), axis.low), axis.high) if whole else value


def load_plan(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a sweep file and check all of it, with the first point of every value resolved.

    Raises:
        InputError: something is wrong; the error names the file, the line and the path.
    """
    tree = load_tree(catalog.find("sweep", name_or_path))
    config = validate(tree, SweepConfig)
    given = {}
    for option in overrides:
        path, equals, text = option.partition("=")
        if not equals:
            raise ConfigError("must be path=value, such as arch.dram.channels=16", file=f"--set {option}")
        given[path.strip()] = resolve_scalar(text)
    plan = Plan(config, tree, {**config.set, **given})
    _check_shape(plan)
    _check_values(plan)
    return plan


def _check_shape(plan: Plan) -> None:
    config, tree = plan.config, plan.tree
    if not _FOLDER.fullmatch(config.name):
        raise tree.error(
            "must be a name that a folder may have, at most 100 printable characters without / and \\ and not "
            f"beginning with a dot, not {config.name[:100]!r}",
            ("name",),
        )
    if not (config.axes or config.zip or config.points or config.random):
        raise tree.error("must have axes, zip, points or random, so that there is something to vary")
    for path, values in config.axes.items():
        if not values:
            raise tree.error("must have at least one value", ("axes", path))
    for number, group in enumerate(config.zip):
        lengths = {len(values) for values in group.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise tree.error("must have lists of one length, at least one value each", ("zip", number))
    for number, entry in enumerate(config.points):
        if set(entry) != set(config.points[0]) or not entry:
            raise tree.error("must set the same paths as the first entry", ("points", number))
    _check_random(plan)
    _check_paths(plan)
    if plan.combinations() > MAX_COMBINATIONS:
        raise tree.error(f"must have at most {MAX_COMBINATIONS:,} combinations, not {plan.combinations():,}")


def _check_random(plan: Plan) -> None:
    config, tree = plan.config, plan.tree
    for path, axis in (config.random.axes if config.random else {}).items():
        ranged = axis.low is not None and axis.high is not None and axis.low <= axis.high
        if (axis.choices is None) != ranged or (axis.log and (axis.low or 0) <= 0):
            raise tree.error(
                "must have either choices, or low and high with low <= high (low > 0 with log)",
                ("random", "axes", path),
            )
    if config.random and config.random.samples > MAX_COMBINATIONS:
        raise tree.error(
            f"must be at most {MAX_COMBINATIONS:,}, not {config.random.samples:,}"[:200], ("random", "samples")
        )


def _check_paths(plan: Plan) -> None:
    config, tree = plan.config, plan.tree
    groups: list[Any] = [plan.fixed, config.axes, *config.zip, *config.points[:1], config.derived]
    seen: set[str] = set()
    for path in itertools.chain(*groups, config.random.axes if config.random else ()):
        if path in seen:
            raise tree.error(f"{path} must be set in one place only")
        if path.partition(".")[0] not in ("arch", "workload"):
            raise tree.error(f"a path must start with arch. or workload., not {path!r}")
        seen.add(path)


def _check_values(plan: Plan) -> None:
    tree, config = plan.tree, plan.config
    texts: list[tuple[tuple[str | int, ...], str]] = [
        (("derived", path), text) for path, text in config.derived.items()
    ]
    texts += [(("constraints", number), text) for number, text in enumerate(config.constraints)]
    texts += [(("objectives", name, "value"), goal.value) for name, goal in config.objectives.items()]
    for at, text in texts:
        try:
            Expression(text)
        except ExpressionError as error:
            raise tree.error(str(error), at) from None
    seen: set[str] = set()
    try:
        for point in plan.points():
            new = {json.dumps([path, point.setting[path]]) for path in plan.paths if path in point.setting} - seen
            if new or point.number == 0:
                seen |= new
                _check_point(plan, point)
    except ExpressionError as error:
        raise tree.error(str(error)) from None
    if not plan.count:
        raise tree.error("must hold for at least one combination; together they exclude all of them", ("constraints",))


def _check_point(plan: Plan, point: Point) -> None:
    try:
        resolve(point.setting)
    except InputError as error:
        varied = {path: point.setting[path] for path in plan.paths}
        at = plan.tree.position().file
        raise ConfigError(f"point {point.number} {varied}: {error}", file=at) from error
    for objective in plan.config.objectives.values():
        for name in Expression(objective.value).names - set(FIGURES):
            look_up(point.setting, name)


__all__ = ["FIGURES", "Plan", "Point", "Setting", "load_plan", "look_up", "resolve"]
