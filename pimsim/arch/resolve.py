"""From a `DramConfig`, as a user writes it, to a `DramSpec`, in which every time is a whole number of ticks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter

from pimsim.arch.dram import Command, CommandConfig, DramConfig, DramSpec, Rule, RuleConfig, Value
from pimsim.arch.rules import Expression, ExpressionError, evaluate
from pimsim.errors import ConfigError, UnknownName

CHANNEL = "channel"
"""Name of the level above all others; it is not written in ``levels``."""

Names = Mapping[str, Fraction]


def resolve_dram(config: DramConfig) -> DramSpec:
    """`config` with every expression evaluated to ticks.

    A timing value may use other timing values and ``burst_bytes``, ``pins``, ``pin_gbps``, ``tck_ps``, ``rows`` and
    ``columns``. Times in ns may stand among them under names that end in ``_ns``; they need not be whole numbers and
    do not appear in the result. Rule values are clocks, and become ticks by ``ticks_per_clock``. With
    ``counts_from: last_tick``, a gap between issue ticks is longer by the extra bus ticks of the earlier command and
    shorter by those of the later one. A negative gap is no constraint and becomes 0.

    Raises:
        ConfigError: a name is unknown, values depend on each other in a circle, or a value is not a whole number of
            clocks (timing) or ticks (rules, latencies, refresh interval). The path names the field.
    """
    _check_names(config)
    names = _timing(config)
    ticks = _Ticks(names, config.ticks_per_clock)
    commands = {name: _command(config, name, command, ticks) for name, command in config.commands.items()}
    rules = [rule for number, row in enumerate(config.rules) for rule in _rules(config, number, row, commands, ticks)]
    return DramSpec(
        name=config.name,
        tck_ps=config.tck_ps,
        ticks_per_clock=config.ticks_per_clock,
        channels=config.channels,
        levels=tuple(config.levels),
        counts=tuple(config.levels.values()),
        register_files=dict(config.register_files),
        rows=config.rows,
        columns=config.columns,
        burst_bytes=config.burst_bytes,
        timing={name: int(names[name]) * config.ticks_per_clock for name in config.timing if not name.endswith("_ns")},
        commands=commands,
        rules=tuple(rules),
        refresh_policy=config.refresh.policy,
        refresh_interval=_refresh_interval(config, ticks),
    )


@dataclass(frozen=True)
class _Ticks:
    """Evaluates expressions in clocks to whole ticks."""

    names: Names
    per_clock: int

    def __call__(self, value: Value, path: str) -> int:
        with_unit = _evaluate(value, self.names, path) * self.per_clock
        if with_unit.denominator != 1:
            raise ConfigError(f"must be a whole number of ticks, not {float(with_unit):g} ({value})", path=path)
        return int(with_unit)


def _evaluate(value: Value, names: Names, path: str) -> Fraction:
    try:
        return evaluate(value, names)
    except ExpressionError as error:
        raise ConfigError(str(error), path=path) from error


def _check_names(config: DramConfig) -> None:
    """Levels and register files share one name space."""
    if not config.levels:
        raise ConfigError("must name at least one level, such as {bank: 16}", path="dram.levels")
    if CHANNEL in config.levels:
        raise ConfigError("must not hold channel; its count is dram.channels", path=f"dram.levels.{CHANNEL}")
    for name in config.register_files:
        if name == CHANNEL or name in config.levels:
            raise ConfigError(f"must not be the name of a level, as {name!r} is", path=f"dram.register_files.{name}")


def _one_of(kind: str, given: str, choices: Iterable[str], path: str) -> None:
    known = list(choices)
    if given not in known:
        raise ConfigError(str(UnknownName(kind, given, known)), path=path)


# --- timing values ---


def _given_names(config: DramConfig) -> dict[str, Fraction]:
    """Values that timing expressions may use besides each other."""
    given = {
        "burst_bytes": config.burst_bytes,
        "columns": config.columns,
        "pin_gbps": config.pin_gbps,
        "pins": config.pins,
        "rows": config.rows,
        "tck_ps": config.tck_ps,
    }
    return {name: evaluate(value, {}) for name, value in given.items() if value is not None}


def _timing(config: DramConfig) -> Names:
    """Every timing value, in the order of their dependence."""
    names = _given_names(config)
    for name in config.timing:
        if name in names:
            raise ConfigError(f"must not be called {name!r}, which is a field of dram", path=f"dram.timing.{name}")
    for name in _order(config.timing):
        path = f"dram.timing.{name}"
        value = _evaluate(config.timing[name], names, path)
        if value < 0 or (value.denominator != 1 and not name.endswith("_ns")):
            raise ConfigError(
                f"must be a whole number of clocks >= 0, not {float(value):g} ({config.timing[name]})", path=path
            )
        names[name] = value
    return names


def _order(timing: Mapping[str, Value]) -> list[str]:
    """Names of timing values such that each comes after those that it uses."""
    uses: dict[str, list[str]] = {}
    for name, value in timing.items():
        try:
            found = Expression(value).names if isinstance(value, str) else frozenset()
        except ExpressionError as error:
            raise ConfigError(str(error), path=f"dram.timing.{name}") from error
        uses[name] = sorted(found & timing.keys())
    try:
        return list(TopologicalSorter(uses).static_order())
    except CycleError as error:
        circle = error.args[1]
        raise ConfigError(
            f"must not depend on itself: {' <- '.join(reversed(circle))}", path=f"dram.timing.{circle[0]}"
        ) from error


# --- commands, rules, refresh ---


def _command(config: DramConfig, name: str, command: CommandConfig, ticks: _Ticks) -> Command:
    path = f"dram.commands.{name}"
    _one_of("scope", command.scope, [CHANNEL, *config.levels], f"{path}.scope")
    if command.register_file is not None:
        _one_of("register file", command.register_file, config.register_files, f"{path}.register_file")
    latency = ticks(command.latency, f"{path}.latency")
    if latency < 0:
        raise ConfigError(f"must be a time >= 0, not {latency} ({command.latency})", path=f"{path}.latency")
    within = _within(config, name, command, ticks)
    return Command(
        name=name,
        scope=command.scope,
        effect=command.effect,
        needs=command.needs,
        data=command.data,
        bus=command.bus,
        ticks=command.ticks,
        register_file=command.register_file,
        latency=latency,
        refresh=command.refresh,
        after=command.after,
        within=within,
    )


def _within(config: DramConfig, name: str, command: CommandConfig, ticks: _Ticks) -> int | None:
    """Ticks that a second step may come after the first."""
    path = f"dram.commands.{name}"
    if command.after is None:
        if command.within is not None:
            raise ConfigError("must be left out where after is", path=f"{path}.within")
        return None
    _one_of("command", command.after, config.commands, f"{path}.after")
    first = config.commands[command.after]
    if (first.scope, first.effect, first.after) != (command.scope, "none", None) or command.after == name:
        raise ConfigError(
            f"must be another command with scope: {command.scope}, no effect and no after, which {command.after} is not",
            path=f"{path}.after",
        )
    if command.within is None:
        return None
    within = ticks(command.within, f"{path}.within")
    if within < 1:
        raise ConfigError(f"must be a time > 0, not {within} ({command.within})", path=f"{path}.within")
    return within


def _rules(
    config: DramConfig, number: int, row: RuleConfig, commands: Mapping[str, Command], ticks: _Ticks
) -> list[Rule]:
    """One row; several rules where commands of the row take different numbers of bus ticks and that counts."""
    path = f"dram.rules.{number}"
    _check_rule(config, row, commands, path)
    gap = ticks(row.min, f"{path}.min")
    rules = []
    for prev_ticks, prev in _by_ticks(config, row.prev, commands):
        for next_ticks, next_ in _by_ticks(config, row.next, commands):
            corrected = max(0, gap + prev_ticks - next_ticks)
            rules.append(Rule(row.level, prev, next_, corrected, row.window, row.sibling, str(row.min)))
    return rules


def _check_rule(config: DramConfig, row: RuleConfig, commands: Mapping[str, Command], path: str) -> None:
    _one_of("level", row.level, [CHANNEL, *config.levels, *config.register_files], f"{path}.level")
    for side, listed in (("prev", row.prev), ("next", row.next)):
        for name in listed:
            _one_of("command", name, commands, f"{path}.{side}")
            if row.level in config.register_files and commands[name].register_file != row.level:
                raise ConfigError(
                    f"must be commands with register_file: {row.level}, which {name} is not", path=f"{path}.{side}"
                )
    if row.sibling and row.level == CHANNEL:
        raise ConfigError("must be a level below the channel in a sibling rule", path=f"{path}.level")


def _by_ticks(
    config: DramConfig, names: Iterable[str], commands: Mapping[str, Command]
) -> list[tuple[int, tuple[str, ...]]]:
    """The commands of one side of a row, apart by the extra bus ticks that the gap must be corrected by."""
    apart: dict[int, list[str]] = {}
    for name in dict.fromkeys(names):
        extra = commands[name].ticks - 1 if config.counts_from == "last_tick" else 0
        apart.setdefault(extra, []).append(name)
    return [(extra, tuple(listed)) for extra, listed in apart.items()]


def _refresh_interval(config: DramConfig, ticks: _Ticks) -> int:
    """Ticks between refreshes; 0 without refresh."""
    if config.refresh.policy == "none":
        return 0
    if not any(command.refresh for command in config.commands.values()):
        raise ConfigError("must be none where no command has refresh: true", path="dram.refresh.policy")
    interval = ticks(config.refresh.interval, "dram.refresh.interval")
    if interval <= 0:
        raise ConfigError(f"must be a time > 0, not {interval}", path="dram.refresh.interval")
    return interval
