"""The calendar against the legality oracle, which shares no code with it: random DRAM standards, random commands."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from hypothesis import assume, given
from hypothesis import strategies as st

from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import Command, DramSpec, Rule
from pimsim.machine.calendar import Calendar, Plan
from pimsim.machine.replay import replay
from pimsim.trace.csvio import TraceCommand, make_command

NAMES = ("A", "B", "C", "D")
Where = tuple[int, ...]


class Case(NamedTuple):
    spec: DramSpec
    steps: list[tuple[str, Where, int]]
    """(command, where, ticks to wait beyond the earliest)"""


@st.composite
def specs(draw: st.DrawFn) -> DramSpec:
    levels = ("rank", "bankgroup", "bank")[-draw(st.integers(1, 3)) :]
    files = draw(st.sampled_from([{}, {"accumulator": 3}, {"accumulator": 1, "buffer": 2}]))
    commands = {name: draw(commands_of(name, levels, files)) for name in NAMES[: draw(st.integers(1, 4))]}
    rules = draw(st.lists(rules_of(levels, files, commands), max_size=7))
    return DramSpec(
        name="random",
        tck_ps=1000.0,
        ticks_per_clock=1,
        channels=1,
        levels=levels,
        counts=tuple(draw(st.lists(st.integers(1, 3), min_size=len(levels), max_size=len(levels)))),
        register_files=files,
        rows=8,
        columns=8,
        burst_bytes=32,
        timing={},
        commands=commands,
        rules=tuple(rules),
        refresh_policy="none",
        refresh_interval=0,
    )


@st.composite
def commands_of(draw: st.DrawFn, name: str, levels: tuple[str, ...], files: dict[str, int]) -> Command:
    scope = draw(st.sampled_from(("channel", *levels)))
    bus, ticks = draw(st.sampled_from(("row", "column"))), draw(st.integers(1, 3))
    register_file = draw(st.sampled_from((None, *files)))
    return Command(name, scope, "none", "any", "none", bus, ticks, register_file, 0, False)


@st.composite
def rules_of(draw: st.DrawFn, levels: tuple[str, ...], files: dict[str, int], commands: dict[str, Command]) -> Rule:
    level = draw(st.sampled_from(("channel", *levels, *files)))
    names = st.lists(st.sampled_from(sorted(commands)), min_size=1, max_size=3, unique=True).map(tuple)
    prev, next_ = draw(names), draw(names)
    sibling = level != "channel" and draw(st.booleans())
    return Rule(level, prev, next_, draw(st.integers(0, 20)), draw(st.sampled_from((1, 1, 1, 2, 3, 4))), sibling, "x")


@st.composite
def addresses(draw: st.DrawFn, spec: DramSpec, command: str) -> Where:
    """A legal address; a level above the scope may be left open, as same-bank commands do."""
    known = spec.commands[command]
    depth = 0 if known.scope == "channel" else spec.levels.index(known.scope) + 1
    where = []
    for number, count in enumerate(spec.counts):
        open_to_all = number + 1 < depth and count > 1 and draw(st.integers(0, 5)) == 0
        where.append(-1 if number >= depth or open_to_all else draw(st.integers(0, count - 1)))
    for name, count in spec.register_files.items():
        where.append(draw(st.integers(0, count - 1)) if name == known.register_file else -1)
    return tuple(where)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    spec = draw(specs())
    steps = []
    for _ in range(draw(st.integers(1, 14))):
        command = draw(st.sampled_from(sorted(spec.commands)))
        steps.append((command, draw(addresses(spec, command)), draw(st.sampled_from((0, 0, 0, 1, 2, 9)))))
    return Case(spec, steps)


def issue(case: Case) -> list[TraceCommand]:
    calendar, tick, trace = Calendar(case.spec), 0, []
    for command, where, slack in case.steps:
        plan = calendar.plan(command, where)
        tick = max(tick, calendar.earliest(plan)) + slack
        calendar.record(plan, tick)
        trace.append(make_command(case.spec, tick, command, 0, where))
    return trace


@given(cases())
def test_what_the_calendar_allows_is_legal(case: Case) -> None:
    assert check_trace(case.spec, issue(case)) == []


@given(cases())
def test_one_tick_earlier_is_illegal(case: Case) -> None:
    """`earliest` is tight: whenever it lies after the command before, the tick before it breaks a rule."""
    calendar, tick, trace = Calendar(case.spec), 0, list[TraceCommand]()
    for command, where, slack in case.steps:
        plan = calendar.plan(command, where)
        earliest = calendar.earliest(plan)
        assert calendar.binding(plan)[0] == earliest
        if earliest > tick:
            moved = make_command(case.spec, earliest - 1, command, 0, where)
            assert [v.index for v in check_trace(case.spec, [*trace, moved])][-1:] == [len(trace)]
        tick = max(tick, earliest) + slack
        calendar.record(plan, tick)
        trace.append(make_command(case.spec, tick, command, 0, where))


@given(cases())
def test_replay_is_legal_and_tight(case: Case) -> None:
    trace = replay(case.spec, [make_command(case.spec, 0, command, 0, where) for command, where, _ in case.steps])
    assert check_trace(case.spec, trace) == []
    for index, row in enumerate(trace):
        if row.cycle > (trace[index - 1].cycle if index else 0) + 1:
            assert check_trace(case.spec, [*trace[:index], row._replace(cycle=row.cycle - 1)])


def all_plans(calendar: Calendar, case: Case) -> list[Plan]:
    return [calendar.plan(command, where) for command, where, _ in case.steps]


@given(cases(), st.integers(0, 14), st.integers(0, 30), st.integers(-5, 1000), st.booleans())
def test_snapshot_and_restore(case: Case, cut: int, idle: int, shift: int, fresh: bool) -> None:
    """After a restore, at any other time and in any calendar, everything goes on as it did."""
    first, tick = Calendar(case.spec), 0
    for command, where, slack in case.steps[:cut]:
        plan = first.plan(command, where)
        tick = max(tick, first.earliest(plan)) + slack
        first.record(plan, tick)
    now = tick + idle
    state = first.snapshot(now)
    second = Calendar(case.spec)
    if not fresh:
        for plan in all_plans(second, case):
            second.record(plan, now + shift + 7)
    second.restore(state, now + shift)
    assert second.snapshot(now + shift) == state
    assert hash(state) == hash(second.snapshot(now + shift))
    tick = now
    for command, where, slack in (*case.steps[cut:], *case.steps):
        one, two = first.plan(command, where), second.plan(command, where)
        expected = max(first.earliest(one), now + 1)
        assert max(second.earliest(two), now + shift + 1) == expected + shift
        tick = max(tick + 1, expected) + slack
        first.record(one, tick)
        second.record(two, tick + shift)
    assert first.snapshot(tick) == second.snapshot(tick + shift)


@given(cases(), st.data())
def test_equal_states_have_equal_snapshots(case: Case, data: st.DataObject) -> None:
    """The order in which plans are compiled and how long ago older commands were leave no mark."""
    first, second = Calendar(case.spec), Calendar(case.spec)
    for command, where, _ in data.draw(st.permutations(case.steps)):
        second.plan(command, where)
        second.record(second.plan(command, where), 0)
    origin = 10 * (second.horizon + 1)
    tick = 0
    for command, where, slack in case.steps:
        tick = max(tick, first.earliest(first.plan(command, where))) + slack
        first.record(first.plan(command, where), tick)
        second.record(second.plan(command, where), tick + origin)
    late = tick + 4 * first.horizon
    assert first.snapshot(late) == second.snapshot(late + origin) == ((), ())
    for one, two in zip(all_plans(first, case), all_plans(second, case), strict=True):
        assert max(first.earliest(one), tick + 1) == max(second.earliest(two) - origin, tick + 1)


@given(cases(), st.integers(0, 9), st.integers(1, 12))
def test_a_run_is_so_many_records(case: Case, count: int, interval: int) -> None:
    one_by_one, at_once = Calendar(case.spec), Calendar(case.spec)
    tick = 0
    for command, where, slack in case.steps:
        tick = max(tick, one_by_one.earliest(one_by_one.plan(command, where))) + slack
        for calendar in (one_by_one, at_once):
            calendar.record(calendar.plan(command, where), tick)
    command, where, _ = case.steps[0]
    for number in range(count):
        one_by_one.record(one_by_one.plan(command, where), tick + 1 + number * interval)
    at_once.record_run(at_once.plan(command, where), tick + 1, interval, count)
    assert at_once.snapshot(tick) == one_by_one.snapshot(tick)
    for one, two in zip(all_plans(one_by_one, case), all_plans(at_once, case), strict=True):
        assert one_by_one.binding(one) == at_once.binding(two)


@given(cases())
def test_self_interval_is_the_pace_of_repetition(case: Case) -> None:
    command, where, _ = case.steps[0]
    calendar = Calendar(case.spec)
    plan = calendar.plan(command, where)
    ticks = [100]
    calendar.record(plan, 100)
    for _ in range(12):
        ticks.append(calendar.earliest(plan))
        calendar.record(plan, ticks[-1])
    gaps = {after - before for before, after in itertools.pairwise(ticks)}
    interval = calendar.self_interval(plan)
    if interval is None:
        assert len(gaps) > 1
    else:
        assert gaps == {interval}


@given(cases())
def test_nothing_reaches_beyond_the_horizon(case: Case) -> None:
    trace = issue(case)
    assume(trace)
    calendar = Calendar(case.spec)
    for row, (command, where, _) in zip(trace, case.steps, strict=True):
        calendar.record(calendar.plan(command, where), row.cycle)
    for plan in all_plans(calendar, case):
        assert calendar.earliest(plan) <= trace[-1].cycle + calendar.horizon
