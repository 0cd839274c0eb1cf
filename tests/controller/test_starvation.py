"""Host traffic that leaves a PIM program next to nothing ends the run in seconds and names the settings."""

from __future__ import annotations

import re

import pytest
from cli_tools import TINY, pimsim

from pimsim.run import simulate

RUN = ("run", "--arch", "pim_gpt_host", "--workload", "gpt2_decode", "--quiet", *TINY, "--set", "arch.dram.channels=2")
DENSE = ("--set", "arch.host_traffic.stream.interval=0")
MESSAGE = (
    r"error: a PIM program beside host traffic must issue at least a command for 20 requests that it waits for, but 20,000 "
    r"more were served up to tick [\d]+: requests come faster than they are served, and host_traffic\.turn \(TURN\) is too "
    r"long for host_traffic\.program_clocks \(CLOCKS\); change one of them or host_traffic\.stream\.interval\n"
)


@pytest.mark.parametrize(
    ("turn", "clocks", "more"),
    [
        (10**9, 500, ("--set", "arch.dram.refresh.policy=none")),
        (1000, 1, ("--set", "arch.host_traffic.batch=1", "--set", "arch.host_traffic.patience=1")),
    ],
)
def test_a_starving_program_ends_the_run(turn: int, clocks: int, more: tuple[str, ...]) -> None:
    """Without refresh the first turn would never end; with short times for the program each command waits for a turn."""
    sets = ("--set", f"arch.host_traffic.turn={turn}", "--set", f"arch.host_traffic.program_clocks={clocks}")
    done = pimsim(*RUN, *DENSE, *sets, *more)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert re.fullmatch(MESSAGE.replace("TURN", str(turn)).replace("CLOCKS", str(clocks)), done.stderr)


@pytest.mark.parametrize("turn", [1, 32])
def test_short_turns_never_starve_it(turn: int) -> None:
    overrides = {
        "workload.generate_tokens": 1,
        "workload.model.layers": 1,
        "workload.model.d_model": 64,
        "workload.model.heads": 1,
        "arch.dram.channels": 1,
        "arch.host_traffic.stream.interval": 0,
        "arch.host_traffic.turn": turn,
    }
    found = simulate("pim_gpt_host", "gpt2_decode", overrides=overrides).requests
    assert found is not None
    assert found.interference is not None
    assert 1 < found.interference.slowdown < 20
