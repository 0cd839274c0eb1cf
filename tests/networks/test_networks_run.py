"""Vision networks on machines: engines agree, numbers are checked, counts are closed forms, what does not fit is refused."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest
from small_networks import OVERRIDES
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, ConfigError, MappingError
from pimsim.plan import plan
from pimsim.run import simulate
from pimsim.workload.attention import primitives as p

MACHINES = ("edge_moe_zcu102", "pim_gpt")


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("machine", MACHINES)
def test_engines_agree_and_numbers_are_right(machine: str, name: str) -> None:
    fast = simulate(machine, name, overrides=OVERRIDES[name], check_tokens=1)
    slow = simulate(machine, name, overrides=OVERRIDES[name], engine="reference")
    assert fast.time.cycles == slow.time.cycles > 0
    assert fast.counts is not None
    assert fast.counts["equal"], fast.counts
    assert fast.functional is not None
    assert fast.functional["passed"], fast.functional["message"]
    assert fast.functional["max_rel_error"] < fast.functional["tolerance"] < 0.2


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", [p.Patches, p.Depthwise])
def test_a_wrong_convolution_fails_the_check(machine: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are compared with the meaning of their primitive; only the end knows what a convolution is."""
    right = kind.meaning

    def shifted(op: p.Primitive, *inputs: object) -> object:
        return np.roll(right(op, *inputs), 1, axis=0)

    monkeypatch.setattr(kind, "meaning", shifted)
    precise = {"pim_gpt": "arch.pim.format=float32", "edge_moe_zcu102": "arch.fpga.primitives.arithmetic=float32"}
    options = [*OVERRIDES["shvit_s1"], precise[machine]]  # bfloat16 explains more than this
    result = simulate(machine, "shvit_s1", overrides=options, check_tokens=1)
    assert result.functional is not None
    assert not result.functional["passed"]
    assert re.match("^output (must be within|of attention Shvit must be within) ", result.functional["message"])


def test_a_whole_network_on_the_streaming_machine() -> None:
    result = simulate("edge_moe_zcu102", "efficientvit_m0")
    work = load_workload("efficientvit_m0").value
    assert result.counts is not None
    assert result.counts["equal"]
    assert result.counts["macs"] == work.method().counts(work.case()).macs == 79_193_600
    assert result.time.cycles > result.counts["macs"] / 32  # lanes that multiply
    assert [layer.name for layer in result.layers] == [
        "stem", "stage1", "stage2.down", "stage2", "stage3.down", "stage3", "head",
    ]  # fmt: skip
    assert sum(layer.seconds for layer in result.layers) == pytest.approx(result.time.seconds)
    carried = sorted(port.bytes_read for port in (result.ports or {}).values())
    assert carried[-1] + carried[-2] > 0.9 * sum(carried)  # deviation 67
    moved = sum(port.bytes_read for port in (result.ports or {}).values())
    assert moved >= 4 * result.counts["reads"]  # rows begin with a beat


def test_a_network_that_does_not_fit_is_refused_with_the_place() -> None:
    with pytest.raises(
        CapacityExceeded,
        match=r"^asic\.sram_bytes must be at least 150528, as stage1\.product\.1 \(product\) makes \(196, 256\)",
    ):
        simulate("pim_gpt", "shvit_s1")
    with pytest.raises(ConfigError, match=r"fpga\.primitives\.buffer_words: must be at least"):
        simulate("edge_moe_zcu102", "efficientvit_m0", overrides=["arch.fpga.primitives.buffer_words=20000"])


def test_machines_without_units_say_so() -> None:
    with pytest.raises(ConfigError, match=r"fpga\.primitives: must be given for efficientvit_m0"):
        simulate("edge_moe_zcu102", "efficientvit_m0", overrides=["arch.fpga.primitives=null"])
    with pytest.raises(MappingError, match=r"^a workload for aim_gddr6, an architecture of kind aim, must be of kind "):
        simulate("aim_gddr6", "efficientvit_m0")


# -------------------------------------------------------------------------------------------------------- microcontroller


def brute_force(name: str, patchwise: bool) -> dict[str, int]:
    """Operation -> bytes that are live while it runs: one set of bytes per value, merged where two values share them.

    Values are walked from the graph itself; a value is live from its operation to the last one that reads it, or any value that
    shares its bytes.
    """
    work = load_workload(name, (("patchwise", str(patchwise).lower()),)).value
    ops = [op for op in work.method().expand(work.case()) if isinstance(op, p.Primitive)]
    at = {op.name: number for number, op in enumerate(ops)}
    readers: dict[str, list[int]] = {op.name: [] for op in ops}
    for op in ops:
        for name_in in op.inputs:
            readers[name_in].append(at[op.name])
    shared: dict[str, str] = {}  # value -> value whose bytes it uses
    members: dict[str, set[str]] = {}
    for op in ops:
        weights = isinstance(op, p.Source) and (op.name != "image" or patchwise)
        root = op.name
        if weights or (isinstance(op, p.Load) and shared[op.inputs[0]] == "" and op.inputs[0] != "image"):
            root = ""
        elif op.inputs:
            first = shared[op.inputs[0]]
            last = max((n for value in members.get(first, ()) for n in readers[value]), default=-1)
            view = isinstance(op, p.Store | p.Arrange | p.Part) or (isinstance(op, p.Load) and first)
            if view or (isinstance(op, p.Elementwise) and first and last == at[op.name]):
                root = first
        shared[op.name] = root
        if root:
            members.setdefault(root, set()).add(op.name)
    live: Counter[int] = Counter()
    for root, values in members.items():
        last = max(max(readers[value], default=at[value]) for value in values)
        for number in range(at[root], max(last, *(at[value] for value in values)) + 1):
            live[number] += ops[at[root]].size
    return {ops[number].name: size for number, size in live.items()}


@pytest.mark.parametrize("patchwise", [True, False])
@pytest.mark.parametrize("name", ["efficientvit_m0", "shvit_s1"])
def test_the_planned_peak_is_that_of_a_brute_force_count(name: str, patchwise: bool) -> None:
    work = load_workload(name, (("patchwise", str(patchwise).lower()),)).value
    found, want = work.plan(), brute_force(name, patchwise)
    assert dict(zip(found.steps, found.live, strict=True)) == {step: want.get(step, 0) for step in found.steps}
    assert found.peak == max(want.values())


def test_the_microcontroller_accepts_and_rejects() -> None:
    device = load_arch("mcu_stm32f746")
    found = plan(device, load_workload("efficientvit_m0")).plan
    assert found.arena <= 320 * 1024
    # the stem's first map of 112 x 112 x 8 bytes, the strips of the second one so far, and a strip of patches with its lines
    assert found.peak_step == "stem.patches.24"
    with pytest.raises(
        CapacityExceeded,
        match=r"^activations must fit into 327680 bytes of mcu_stm32f746, not 362768: 362768 are live in 'stem\.product\.22'$",
    ):
        plan(device, load_workload("shvit_s1", (("patchwise", "false"),)))


def test_the_command_line_runs_checks_and_plans() -> None:
    options = [part for option in OVERRIDES["efficientvit_m0"] for part in ("--set", option)]
    ran = CliRunner().invoke(
        app, ["run", "--arch", "edge_moe_zcu102", "--workload", "efficientvit_m0", "--check", *options]
    )
    assert ran.exit_code == 0, ran.output
    assert "pass:" in ran.output
    planned = CliRunner().invoke(
        app, ["run", "--arch", "mcu_stm32f746", "--workload", "efficientvit_m0", "--format", "json"]
    )
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["peak_step"] == "stem.patches.24"
    refused = CliRunner().invoke(
        app,
        ["run", "--arch", "mcu_stm32f746", "--workload", "efficientvit_m5", "--set", "workload.patchwise=false"],
    )
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
