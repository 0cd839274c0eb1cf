"""From YAML values to ticks; messages are matched from their first character."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pimsim.arch.dram import DramConfig, DramSpec
from pimsim.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "test",
    "standard": "TEST",
    "tck_ps": 500.0,
    "levels": {"rank": 2, "bank": 4},
    "rows": 16,
    "columns": 8,
    "burst_bytes": 32,
    "pins": 64,
    "timing": {"nA": 3, "nB": "2 * nA + 1", "nREFI": 100},
    "commands": {
        "ACT": {"scope": "bank", "effect": "open", "ticks": 2},
        "PRE": {"scope": "bank", "effect": "close", "latency": "nB"},
        "REF": {"scope": "rank", "refresh": True},
    },
    "rules": [{"level": "bank", "prev": ["ACT"], "next": ["PRE"], "min": "nB"}],
}


def resolve(**changes: Any) -> DramSpec:
    return DramConfig.model_validate(BASE | changes).resolve()


def rule(**changes: Any) -> dict[str, Any]:
    return {**BASE["rules"][0], **changes}


def commands(name: str, **changes: Any) -> dict[str, Any]:
    return {**BASE["commands"], name: {**BASE["commands"].get(name, {}), **changes}}


def gaps(spec: DramSpec) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    return [(r.prev, r.next, r.gap) for r in spec.rules]


def test_expressions_become_ticks() -> None:
    spec = resolve()
    assert spec.timing == {"nA": 3, "nB": 7, "nREFI": 100}
    assert spec.rules[0].gap == 7
    assert spec.rules[0].text == "nB"
    assert spec.commands["PRE"].latency == 7
    assert spec.refresh_interval == 100
    assert (spec.levels, spec.counts, spec.address_fields) == (("rank", "bank"), (2, 4), ("rank", "bank"))


def test_half_clock_ticks() -> None:
    spec = resolve(ticks_per_clock=2, rules=[rule(), rule(min=1.5)])
    assert spec.timing["nB"] == 14
    assert [r.gap for r in spec.rules] == [14, 3]
    assert spec.commands["PRE"].latency == 14
    assert spec.refresh_interval == 200


def test_values_may_come_in_any_order_and_use_the_organisation_and_ns() -> None:
    timing = {
        "nC": "nB + nA",
        "nB": "burst_bytes * 8 // pins",
        "nA": "ceil(tA_ns * 1000 / tck_ps)",
        "tA_ns": 3.3,
        "nREFI": 9,
    }
    spec = resolve(timing=timing)
    assert spec.timing == {"nC": 11, "nB": 4, "nA": 7, "nREFI": 9}


def test_gaps_count_from_the_last_tick() -> None:
    """JEDEC counts from the last bus tick; ticks of the earlier command add, those of the later one subtract."""
    row = rule(prev=["ACT", "PRE"], next=["ACT", "PRE"], min=5)
    assert gaps(resolve(rules=[row])) == [(("ACT", "PRE"), ("ACT", "PRE"), 5)]
    assert gaps(resolve(rules=[row], counts_from="last_tick")) == [
        (("ACT",), ("ACT",), 5),
        (("ACT",), ("PRE",), 6),
        (("PRE",), ("ACT",), 4),
        (("PRE",), ("PRE",), 5),
    ]


def test_negative_gaps_are_no_constraint() -> None:
    assert resolve(rules=[rule(min="nA - nB")]).rules[0].gap == 0


def test_register_files_are_levels() -> None:
    spec = resolve(
        register_files={"accumulator": 4},
        commands=commands("MAC", scope="channel", register_file="accumulator"),
        rules=[rule(level="accumulator", prev=["MAC"], next=["MAC"])],
    )
    assert spec.address_fields == ("rank", "bank", "accumulator")


def test_no_refresh() -> None:
    spec = resolve(
        refresh={"policy": "none"}, timing={"nA": 3, "nB": 7}, commands={k: BASE["commands"][k] for k in ("ACT", "PRE")}
    )
    assert spec.refresh_interval == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timing": {"nA": 1.5}}, "dram.timing.nA: must be a whole number of clocks >= 0, not 1.5 (1.5)"),
        ({"timing": {"nA": -1}}, "dram.timing.nA: must be a whole number of clocks >= 0, not -1 (-1)"),
        (
            {"timing": {"nA": 3, "nB": "nA / 2"}},
            "dram.timing.nB: must be a whole number of clocks >= 0, not 1.5 (nA / 2)",
        ),
        ({"timing": {"nA": "nX + 1"}}, "dram.timing.nA: a name must be one of "),
        ({"timing": {"nA": "1 +"}}, "dram.timing.nA: an expression must be arithmetic such as "),
        ({"timing": {"nA": "nB", "nB": "nC + 1", "nC": "nA"}}, "dram.timing.nA: must not depend on itself: nA <- "),
        ({"timing": {"nA": "nA"}}, "dram.timing.nA: must not depend on itself: nA <- nA"),
        ({"timing": {"rows": 3}}, "dram.timing.rows: must not be called 'rows', which is a field of dram"),
        ({"levels": {}}, "dram.levels: must name at least one level, such as {bank: 16}"),
        (
            {"levels": {"channel": 2, "bank": 2}},
            "dram.levels.channel: must not hold channel; its count is dram.channels",
        ),
        ({"register_files": {"bank": 2}}, "dram.register_files.bank: must not be the name of a level, as 'bank' is"),
        (
            {"rules": [rule(), rule(level="bnak")]},
            "dram.rules.1.level: level must be one of bank, channel, rank, not 'bnak'; did you mean 'bank'?",
        ),
        (
            {"rules": [rule(prev=["ATC"])]},
            "dram.rules.0.prev: command must be one of ACT, PRE, REF, not 'ATC'; did you mean 'ACT'?",
        ),
        ({"rules": [rule(next=["RD"])]}, "dram.rules.0.next: command must be one of ACT, PRE, REF, not 'RD'"),
        ({"rules": [rule(min="nBB")]}, "dram.rules.0.min: a name must be one of "),
        ({"rules": [rule(min=0.5)]}, "dram.rules.0.min: must be a whole number of ticks, not 0.5 (0.5)"),
        (
            {"rules": [rule(level="channel", sibling=True)]},
            "dram.rules.0.level: must be a level below the channel in a sibling rule",
        ),
        (
            {"register_files": {"acc": 2}, "rules": [rule(level="acc")]},
            "dram.rules.0.prev: must be commands with register_file: acc, which ACT is not",
        ),
        (
            {"commands": commands("ACT", scope="row")},
            "dram.commands.ACT.scope: scope must be one of bank, channel, rank, not 'row'",
        ),
        (
            {"commands": commands("ACT", register_file="acc")},
            "dram.commands.ACT.register_file: register file must be one of (none), not 'acc'",
        ),
        (
            {"commands": commands("ACT", latency="nA - nB")},
            "dram.commands.ACT.latency: must be a time >= 0, not -4 (nA - nB)",
        ),
        (
            {"commands": commands("REF", refresh=False)},
            "dram.refresh.policy: must be none where no command has refresh: true",
        ),
        ({"refresh": {"interval": 0}}, "dram.refresh.interval: must be a time > 0, not 0"),
        ({"refresh": {"interval": "nREFIX"}}, "dram.refresh.interval: a name must be one of "),
    ],
)
def test_wrong_values_name_their_path(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        resolve(**changes)
