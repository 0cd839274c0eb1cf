"""Bank state: what is refused, and which command comes next."""

from __future__ import annotations

import pytest

from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import SimulationError, TimingViolation
from pimsim.machine.bank import BankState


def command(
    name: str, scope: str, effect: str = "none", needs: str = "any", data: str = "none", **extra: bool
) -> Command:
    return Command(name, scope, effect, needs, data, "command", 1, None, 0, extra.get("refresh", False))


BANK_COMMANDS = (
    command("OPEN", "bank", "open", "closed"),
    command("SHUT", "bank", "close"),
    command("GET", "bank", needs="open", data="read"),
    command("GET_AND_SHUT", "bank", "close", "open", "read"),
    command("SHUT_ALL", "channel", "close"),
    command("RENEW", "channel", needs="closed", refresh=True),
    command("MAC_ALL", "channel", needs="open"),
    command("NOTE", "channel"),
)
OPEN_ALL = command("OPEN_ALL", "channel", "open", "closed")


def state(*commands: Command) -> BankState:
    return BankState(
        DramSpec(
            name="test",
            tck_ps=1000.0,
            ticks_per_clock=1,
            channels=1,
            levels=("bankgroup", "bank"),
            counts=(2, 2),
            register_files={},
            rows=16,
            columns=4,
            burst_bytes=32,
            timing={},
            commands={c.name: c for c in (commands or BANK_COMMANDS)},
            rules=(),
            refresh_policy="none",
            refresh_interval=0,
        )
    )


ALL = (-1, -1)


def test_open_and_close() -> None:
    banks = state()
    banks.apply("OPEN", (1, 0), 5)
    assert banks.open_rows == {(1, 0): 5}
    banks.check("GET", (1, 0), 5)
    banks.check("GET", (1, 0))
    banks.apply("GET_AND_SHUT", (1, 0), 5)
    assert banks.open_rows == {}


def test_scope_reaches_all_banks_below() -> None:
    banks = state(*BANK_COMMANDS, OPEN_ALL)
    banks.apply("OPEN_ALL", ALL, 3)
    assert banks.open_rows == {(0, 0): 3, (0, 1): 3, (1, 0): 3, (1, 1): 3}
    banks.check("MAC_ALL", ALL, 3)
    banks.apply("SHUT", (-1, 1))
    assert banks.open_rows == {(0, 0): 3, (1, 0): 3}
    banks.apply("SHUT_ALL", ALL)
    assert banks.open_rows == {}


@pytest.mark.parametrize(
    ("name", "where", "row", "message"),
    [
        ("OPEN", (1, 0), 6, r"^OPEN must find a closed bank, not bankgroup 1, bank 0 with row 5 open$"),
        ("RENEW", ALL, -1, r"^RENEW must find a closed bank, not bankgroup 1, bank 0 with row 5 open$"),
        ("GET", (0, 0), 5, r"^GET must find an open row, not bankgroup 0, bank 0 closed$"),
        ("GET", (1, 0), 6, r"^GET must find row 6 open, not bankgroup 1, bank 0 with row 5 open$"),
        ("MAC_ALL", ALL, -1, r"^MAC_ALL must find an open row, not bankgroup 0, bank 0 closed$"),
    ],
)
def test_wrong_state_is_refused(name: str, where: tuple[int, ...], row: int, message: str) -> None:
    banks = state()
    banks.apply("OPEN", (1, 0), 5)
    with pytest.raises(TimingViolation, match=message):
        banks.check(name, where, row)


def test_closing_a_closed_bank_is_allowed() -> None:
    state().check("SHUT", (0, 0))


def test_next_command_of_a_read() -> None:
    banks = state()
    assert banks.next_command("GET", (1, 1), 5) == ("OPEN", (1, 1))
    banks.apply("OPEN", (1, 1), 4)
    assert banks.next_command("GET", (1, 1), 5) == ("SHUT", (1, 1))
    banks.apply("SHUT", (1, 1))
    banks.apply("OPEN", (1, 1), 5)
    assert banks.next_command("GET", (1, 1), 5) == ("GET", (1, 1))


def test_next_command_of_a_refresh_closes_all_at_once() -> None:
    banks = state()
    assert banks.next_command("RENEW", ALL) == ("RENEW", ALL)
    banks.apply("OPEN", (1, 1), 4)
    assert banks.next_command("RENEW", ALL) == ("SHUT_ALL", ALL)


def test_next_command_without_state_is_the_goal() -> None:
    assert state().next_command("NOTE", ALL) == ("NOTE", ALL)


def test_all_bank_goal_opens_bank_by_bank_without_an_all_bank_command() -> None:
    banks = state()
    banks.apply("OPEN", (0, 0), 4)
    assert banks.next_command("MAC_ALL", ALL, 4) == ("OPEN", (0, 1))


def test_all_bank_goal_closes_a_half_open_channel_before_it_opens_it() -> None:
    banks = state(*BANK_COMMANDS, OPEN_ALL)
    assert banks.next_command("MAC_ALL", ALL, 4) == ("OPEN_ALL", ALL)
    banks.apply("OPEN", (0, 1), 4)
    assert banks.next_command("MAC_ALL", ALL, 4) == ("SHUT_ALL", ALL)


def test_no_command_that_opens() -> None:
    banks = state(command("GET", "bank", needs="open", data="read"))
    with pytest.raises(
        SimulationError, match=r"^GET must be preceded by a command that can open a bank; the DRAM has none$"
    ):
        banks.next_command("GET", (0, 0), 1)
