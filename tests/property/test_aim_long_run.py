"""GDDR6-AiM for long: strict runs and look-ups in bounded memory, and who waits for what when nothing can go on."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from pimsim.analysis.strict import StrictOracle
from pimsim.arch.aim import AimConfig
from pimsim.arch.dram import DramSpec
from pimsim.config import load_arch, load_workload
from pimsim.errors import Deadlock, TimingViolation
from pimsim.machine.aim import segments
from pimsim.machine.aim.channel import AimChannel
from pimsim.machine.aim.host import Sink, run_aim
from pimsim.machine.aim.policy import POLICIES
from pimsim.machine.aim.segments import AimProgram
from pimsim.mapper.aim import AimMapping
from pimsim.program.aim_isr import Instruction, Limits, parse_instructions
from pimsim.run import simulate
from pimsim.workload.models import build_graph

TINY = {"model.layers": 1, "model.d_model": 32, "model.heads": 2, "model.d_ff": 64}


def mapping(tokens: int, **machine: str) -> AimMapping:
    arch: AimConfig = load_arch("aim_gddr6_proper", list({"dram.channels": "2", **machine}.items())).value
    work = load_workload("gpt2_decode", [(k, str(v)) for k, v in {**TINY, "generate_tokens": tokens}.items()]).value
    return AimMapping(work, build_graph(work), arch, arch.dram.resolve())


def run(mapped: AimMapping, sink: Sink | None = None) -> AimProgram:
    program = AimProgram(mapped.spec, POLICIES["none"], mapped.addressed(), sink=sink)
    program.run(mapped.forward_pass(context) for context in range(1, mapped.passes + 1))
    return program


def traced_peak(tokens: int) -> tuple[int, int]:
    """(bytes that a strict run holds at most, commands that it checks)."""
    mapped = mapping(tokens)
    oracle = StrictOracle(mapped.spec)
    gc.collect()
    tracemalloc.start()
    program = run(mapped, oracle)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert oracle.checked == sum(program.totals.commands.values())
    return peak, oracle.checked


def test_a_strict_run_holds_no_more_for_four_times_the_tokens() -> None:
    (short, few), (long, many) = traced_peak(20), traced_peak(80)
    assert many > 4 * few
    assert long < short + 400_000  # kept commands would take a megabyte and a half more


def test_a_strict_run_ends_with_the_first_illegal_command() -> None:
    mapped = mapping(1)
    wrong = load_arch("aim_gddr6_proper", [("dram.channels", "2"), ("dram.timing.nRCDRDMAC", "57")]).value
    with pytest.raises(TimingViolation, match=r"^channel 0: MAC16 at tick \d+ must keep .*ACT16->MAC16 >= 57"):
        run(mapped, StrictOracle(wrong.dram.resolve()))


@pytest.mark.parametrize("limit", [1, 20, 300])
def test_what_is_forgotten_changes_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(mapping(60))
    monkeypatch.setattr(segments, "MEMORY_LIMIT", limit)
    bounded = run(mapping(60))
    assert bounded.totals == whole.totals
    assert bounded.simulated >= whole.simulated
    assert limit == 300 or bounded.simulated > whole.simulated


def test_both_engines_and_a_strict_run_give_the_same(tmp_path: Any) -> None:
    overrides = {f"workload.{key}": value for key, value in {**TINY, "generate_tokens": 3}.items()}
    trace = tmp_path / "t.trace"
    trace.write_text("W MEM 0 5 3\nAiM WR_GB 2 0 0xff\nAiM MAC_ABK 40 0xff 7\nAiM RD_MAC 0 0xff\nAiM EOC\n")
    for workload, given in (("gpt2_decode", overrides), (str(trace), {})):
        rows: list[Any] = []
        plain = simulate("aim_gddr6_proper", workload, overrides=given, trace=rows)
        again: list[Any] = []
        strict = simulate("aim_gddr6_proper", workload, overrides=given, trace=again, strict=True)
        assert rows == again == sorted(rows)
        assert strict.legality == {"checked": len(rows)}
        assert (strict.time, strict.dram) == (plain.time, plain.dram)


# ---------------------------------------------------------------------------------------------------------- deadlocks


def spec() -> DramSpec:
    resolved: DramSpec = load_arch("aim_gddr6").value.dram.resolve()
    return resolved


def instructions(*lines: str) -> list[Instruction]:
    return parse_instructions([*lines, "AiM EOC"], Limits(32, 16, 16384, 64))


def stuck_after(monkeypatch: pytest.MonkeyPatch, commands: int) -> None:
    """From then on a channel issues nothing."""
    choose = AimChannel._choose

    def some(self: AimChannel, clock: int) -> Any:
        return choose(self, clock) if sum(self.counts.values()) < commands else None

    monkeypatch.setattr(AimChannel, "_choose", some)


def test_host_and_channels_say_what_they_wait_for_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """ACT16 at 1, MAC16 from 1 + nRCDRDMAC on, every second cycle: the third command is the last that issues."""
    stuck_after(monkeypatch, 3)
    lines = ["AiM MAC_ABK 4 0xf0000000 7", "AiM RD_MAC 0 0xf0000000", "AiM SYNC"]
    last = 1 + spec().timing["nRCDRDMAC"] + 2
    with pytest.raises(Deadlock) as caught:
        run_aim(spec(), POLICIES["aim_simulator"], instructions(*lines))
    assert str(caught.value) == (
        "host waits for RD_MAC (line 2) to be answered, since cycle 2; channel 0 and 3 like it wait for a turn to issue "
        f"MAC16, with 2 requests behind it, since cycle {last}; nothing can happen after cycle {last + 1}"
    )


def test_refreshes_that_fall_due_do_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck_after(monkeypatch, 1)
    lines = ["AiM MAC_ABK 60 0x80000000 7", "AiM MAC_ABK 2 0x80000000 9"]
    waits = r"host waits for 27 places in queues for MAC_ABK \(line 1\), since cycle 1; channel 0 waits for a turn to issue "
    with pytest.raises(
        Deadlock, match=f"^{waits}PREA for REFab, with 36 requests behind it, since cycle 1; channel 1 and "
    ):
        run_aim(spec(), POLICIES["none"], instructions(*lines))


def test_a_decoder_names_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck_after(monkeypatch, 40)
    report = r"^h0\.\w+: host waits for RD_MAC \(instruction \d+\) to be answered, since cycle \d+; channel 0 and 1 like it wait"
    with pytest.raises(Deadlock, match=report):
        run(mapping(2))
