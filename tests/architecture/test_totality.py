"""Every command and every ASIC function is known to every reader: energy, list, text form, verifier, cost model."""

from __future__ import annotations

import pytest

from pimsim.analysis.energy import command_joules
from pimsim.arch.dram import Command
from pimsim.arch.functions import FUNCTIONS, cost
from pimsim.arch.system import ArchConfig
from pimsim.commands.inspect import KINDS
from pimsim.config import load_arch
from pimsim.program.isa import Block, Compute, Item, Op, Placed, Run, Step
from pimsim.program.text import from_text, to_text
from pimsim.program.verify import verify

ARCH: ArchConfig = load_arch("pim_gpt").value
SPEC = ARCH.dram.resolve()
SRAM, BUFFER = 65536, 64
NONE = (-1,) * len(SPEC.address_fields)
COMPONENTS = {
    "ACT": {"activate"},
    "ACT_AB": {"activate"},
    "PREpb": set(),
    "PREab": set(),
    "RD": {"read", "interface"},
    "WR": {"write", "interface"},
    "REFab": {"refresh"},
    "MAC_AB": {"column_mac", "mac_units"},
    "WR_GB": {"interface"},
    "RD_MAC": {"interface"},
}
"""Command -> what its energy consists of."""


def whole(name: str) -> Command:
    return SPEC.commands[name]


def address(command: Command) -> tuple[int, ...]:
    """The first node at the command's level, and the first register of its file."""
    depth = 0 if command.scope == "channel" else SPEC.levels.index(command.scope) + 1
    levels = tuple(0 if i < depth else -1 for i in range(len(SPEC.levels)))
    return levels + tuple(0 if name == command.register_file else -1 for name in SPEC.register_files)


def run(command: Command, row: int = -1) -> Run:
    """One command with all that it needs."""
    reads_buffer = command.needs == "open" and command.data == "none"
    writes_buffer = command.needs == "any" and command.data == "write"
    return Run(
        command.name,
        address(command),
        row=row if command.effect == "open" or command.needs == "open" else -1,
        column=0 if command.needs == "open" else -1,
        buffer=0 if reads_buffer or writes_buffer else -1,
        sram=0 if command.data != "none" else -1,
    )


def block(name: str) -> Block:
    """The smallest legal block that holds a command."""
    command = whole(name)
    items: tuple[Item, ...] = (run(command, 7),)
    if command.needs == "open":
        opener = "ACT_AB" if command.scope == "channel" else "ACT"
        items = (run(whole(opener), 7), *items, run(whole("PREab")))
    elif command.effect == "open":
        items = (*items, run(whole("PREab")))
    channels = ((Step(0, items),), *[()] * (SPEC.channels - 1))
    return Block(name, (Op("linear", "layer0.test"),), channels, ())


def test_the_table_of_components_is_complete() -> None:
    assert set(COMPONENTS) == set(SPEC.commands)


@pytest.mark.parametrize("name", SPEC.commands)
def test_energy_classifies_every_command(name: str) -> None:
    costs, missing = command_joules(whole(name), ARCH, SPEC)
    assert set(costs) | set(missing) == COMPONENTS[name]
    assert all(joules >= 0 for joules in costs.values())


@pytest.mark.parametrize("name", SPEC.commands)
def test_every_command_is_listed(name: str) -> None:
    assert KINDS["commands"]()[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_listed(name: str) -> None:
    assert KINDS["commands"]()[name].startswith("ASIC: ")


def test_nothing_else_is_listed() -> None:
    assert list(KINDS["commands"]()) == [*SPEC.commands, *FUNCTIONS]


@pytest.mark.parametrize("name", SPEC.commands)
def test_every_command_has_a_text_form(name: str) -> None:
    before = block(name)
    after = from_text(to_text(before))
    assert (after.name, after.ops, after.streams) == (before.name, before.ops, before.streams)


@pytest.mark.parametrize("name", SPEC.commands)
def test_the_verifier_accepts_every_command(name: str) -> None:
    verify([Placed(block(name), 0, -1)], SPEC, SRAM, BUFFER)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_verifier_accepts_every_function_and_it_has_a_text_form(name: str) -> None:
    compute = Compute(name, 8, (0,), 0)
    before = Block("b", (Op("k", "n"),), ((),) * SPEC.channels, (Step(0, (compute,)),))
    verify([Placed(before, 0, -1)], SPEC, SRAM, BUFFER)
    assert from_text(to_text(before)).asic == before.asic


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("length", [1, 2, 768, 6400])
def test_every_function_has_a_cost(name: str, length: int) -> None:
    found = cost(name, length, ARCH.asic)
    assert 1 <= found.busy <= found.latency
    assert found.adds + found.multiplies >= length


@pytest.mark.parametrize("name", SPEC.commands)
def test_every_command_is_in_a_timing_rule(name: str) -> None:
    assert any(name in rule.prev + rule.next for rule in SPEC.rules)
