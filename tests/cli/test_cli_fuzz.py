"""Whatever a field is set to: the run ends soon, with exit code 0, or 2 and one line."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from cli_tools import RUN, TINY, pimsim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch

SOON = 30
"""Seconds; a run of this size takes a twentieth of one."""


def field_paths(data: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted path of every value of a configuration, mappings and lists included."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in pairs:
        if key not in ("sources", "description"):
            yield ".".join((*path, str(key)))
            yield from field_paths(inner, (*path, str(key)))


FIELDS = sorted(field_paths(load_arch("pim_gpt").tree.data))
NUMBERS = [field for field in FIELDS if not field.startswith("dram.rules.")]
VALUES = st.one_of(
    st.sampled_from(
        ["0", "-1", "1", "2", "3", "7", "1e30", "1e-30", "1e308", '""', "x", ".nan", ".inf", "null", "true", "0.5"]
    ),
    st.sampled_from(
        ["[]", "{}", "[1", "bank", "channel", "open", "none", "nREFI", "1/0", "'1 GHz'", "MAC_AB", "&a [*a]"]
    ),
    st.sampled_from([str(10**6), str(10**30), "9" * 101, str(2**63), "1024", "1025"]),
    st.integers(-(10**6), 10**9).map(str),
    st.floats().map(repr),
    st.text(max_size=12),
)


class TooLate(BaseException):
    """The run did not end."""


def check(*overrides: str) -> None:
    """Run the smallest workload with overrides."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLate(f"{overrides} must end within {SOON} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SOON)
    try:
        result = pimsim(*RUN, *TINY, *(part for option in overrides for part in ("--set", option)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert result.exit_code in {0, 2}, result.output
    if result.exit_code == 2:
        assert result.stdout == ""
        assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(NUMBERS), VALUES)
@example("dram.timing.nREFI", "564")
@example("dram.timing.nREFI", "563")
@example("dram.channels", "1024")
@example("dram.levels", "{bankgroup: 32, bank: 32}")
@example("asic.clock_mhz", "1")
@example("asic.sram_bytes", str(10**99))
@example("energy.mac_units_power_mw", "1e308")
def test_any_value_in_any_field(field: str, value: str) -> None:
    check(f"arch.{field}={value}")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FIELDS), VALUES, st.sampled_from(NUMBERS), VALUES)
def test_any_two_values(one: str, first: str, other: str, second: str) -> None:
    check(f"arch.{one}={first}", f"arch.{other}={second}")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_as_an_override(text: str) -> None:
    check(text)


@pytest.mark.parametrize("interval", [564, 600, 700])
def test_the_shortest_refresh_interval_lets_commands_through(interval: int) -> None:
    check(f"arch.dram.timing.nREFI={interval}", "arch.dram.timing.nRAS=1", "arch.dram.timing.nRC=13")
    check(f"arch.dram.timing.nREFI={interval}")
