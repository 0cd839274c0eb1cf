"""Utilisation over time adds up to the units' figures of the result, whatever the number and width of bins."""

from __future__ import annotations

import pytest

import pimsim
from pimsim.trace.activity import BUSY, IDLE, OTHER, Activity, ActivityRecorder
from pimsim.trace.spans import BlockSpans, Span

SMALL = {
    "workload.model.layers": 2,
    "workload.model.d_model": 128,
    "workload.model.heads": 4,
    "workload.model.d_ff": 192,
}


def seconds(activity: Activity, group: str, label: str, whole: float) -> float:
    """Time that all units of a group spent on something."""
    found = activity.groups[group]
    lengths = [min(activity.bin_seconds, whole - n * activity.bin_seconds) for n in range(len(found.shares[label]))]
    return found.units * sum(a * b for a, b in zip(found.shares[label], lengths, strict=True))


@pytest.mark.parametrize(("tokens", "engine"), [(1, "fast"), (40, "fast"), (3, "reference")])
def test_time_adds_up_to_that_of_the_units(tokens: int, engine: str) -> None:
    result = pimsim.simulate(
        "pim_gpt", "gpt2_decode", overrides={**SMALL, "workload.generate_tokens": tokens}, engine=engine, activity=True
    )
    activity = result.activity
    assert activity is not None
    assert {name: group.units for name, group in activity.groups.items()} == {"channel": 8, "asic": 1}
    for name, group in activity.groups.items():
        units = [unit for key, unit in result.units.items() if key.startswith(name)]
        spent = lambda label: seconds(activity, name, label, result.time.seconds)  # noqa: B023, E731
        assert spent(BUSY) == pytest.approx(sum(unit.busy_seconds for unit in units), rel=1e-9)
        assert all(len(row) == len(group.shares[BUSY]) <= 128 for row in group.shares.values())
        for column in zip(*group.shares.values(), strict=True):
            assert sum(column) == pytest.approx(1.0)
    channels = [unit for key, unit in result.units.items() if key.startswith("channel")]
    for reason in {reason for unit in channels for reason in unit.stalls if reason.startswith("wait ")}:
        told = sum(unit.stalls.get(reason, 0.0) for unit in channels)
        assert seconds(activity, "channel", reason, result.time.seconds) == pytest.approx(told, rel=1e-9)


def test_both_engines_see_the_same() -> None:
    options = {**SMALL, "workload.generate_tokens": 4}
    one, other = (
        pimsim.simulate("pim_gpt", "gpt2_decode", overrides=options, engine=engine, activity=True).activity
        for engine in ("fast", "reference")
    )
    assert one is not None
    assert other is not None
    assert one.bin_seconds == other.bin_seconds
    for name, group in one.groups.items():
        assert set(group.shares) == set(other.groups[name].shares)
        for label, row in group.shares.items():
            assert row == pytest.approx(other.groups[name].shares[label], abs=1e-9)


def test_bins_show_when_it_happened() -> None:
    """By hand: busy for 10 ticks, waiting for 30, then half of the slots of 40 ticks; blocks come again."""
    recorder = ActivityRecorder({"MAC"}, bins=8)
    spans = [
        Span(("channel0", "channel1"), 0, 0, None, 0, 10, "", (("MAC", 10),), ()),
        Span(("channel0", "channel1"), 0, 10, 40, 40, 80, "wait softmax", (("MAC", 20), ("RD", 5)), ()),
    ]
    for number in range(2):
        recorder.block(BlockSpans(0, "b", (), 80 * number, 80 * number, (), spans))
    found = recorder.activity(160, 2.0)
    assert found.bin_seconds == 64.0  # 32 ticks
    shares = found.groups["channel"].shares
    ticks = {label: [round(32 * share, 6) for share in row] for label, row in shares.items()}
    assert ticks[BUSY] == pytest.approx([10, 12, 18, 4, 16])
    assert ticks["wait softmax"] == pytest.approx([22, 8, 6, 24, 0])
    assert ticks[OTHER] == pytest.approx([0, 12, 8, 4, 16])
    assert ticks[IDLE] == pytest.approx([0, 0, 0, 0, 0])


def test_nothing_is_recorded_unless_asked_for() -> None:
    assert (
        pimsim.simulate("pim_gpt", "gpt2_decode", overrides={**SMALL, "workload.generate_tokens": 1}).activity is None
    )
