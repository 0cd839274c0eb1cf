"""Small configurations, counters and results for tests; every keyword overrides one field."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pimsim.arch.dram import DramConfig, DramElectrical
from pimsim.arch.system import ArchConfig
from pimsim.result import Result, build_result
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import WorkloadConfig

DDR4_ELECTRICAL = {
    "vdd_v": 1.2,
    "idd0_ma": 57.0,
    "idd2n_ma": 37.0,
    "idd3n_ma": 52.0,
    "idd4r_ma": 168.0,
    "idd4w_ma": 150.0,
    "idd5b_ma": 250.0,
    "devices_per_channel": 8,
}
"""DDR4-3200 x8 of the DRAMsim3 configuration, one rank of eight devices."""

PIM_ELECTRICAL = {
    "vdd_v": 1.25,
    "idd0_ma": 122.0,
    "idd2n_ma": 92.0,
    "idd3n_ma": 142.0,
    "idd4r_ma": 530.0,
    "idd4w_ma": 470.0,
    "idd5b_ma": 277.0,
}
"""PIM-GPT's set, in which IDD0 is below IDD3N."""

DRAM_COMMANDS: dict[str, dict[str, Any]] = {
    "ACT": {"scope": "bank", "effect": "open", "needs": "closed"},
    "PREpb": {"scope": "bank", "effect": "close"},
    "PREab": {"scope": "channel", "effect": "close"},
    "RD": {"scope": "bank", "needs": "open", "data": "read"},
    "WR": {"scope": "bank", "needs": "open", "data": "write"},
    "REFab": {"scope": "channel", "needs": "closed", "refresh": True},
}
PIM_COMMANDS: dict[str, dict[str, Any]] = {
    "ACT_AB": {"scope": "channel", "effect": "open", "needs": "closed"},
    "MAC_AB": {"scope": "channel", "needs": "open", "register_file": "accumulator"},
    "WR_GB": {"scope": "channel", "data": "write"},
    "RD_MAC": {"scope": "channel", "data": "read", "register_file": "accumulator"},
}


def electrical(**fields: Any) -> DramElectrical:
    """PIM-GPT's currents."""
    return DramElectrical(**{**PIM_ELECTRICAL, **fields})


def dram(**fields: Any) -> DramConfig:
    """Two channels of a 1 GHz GDDR6-PIM, four bank groups of four banks; only the rule that energy reads."""
    given: dict[str, Any] = {
        "name": "test_pim",
        "standard": "GDDR6-PIM",
        "tck_ps": 1000.0,
        "channels": 2,
        "levels": {"bankgroup": 4, "bank": 4},
        "rows": 64,
        "columns": 64,
        "burst_bytes": 32,
        "pins": 16,
        "pin_gbps": 16.0,
        "register_files": {"accumulator": 4},
        "timing": {"nBL": 1, "nRCD": 12, "nRP": 12, "nRAS": 28, "nRC": 40, "nCCD": 1, "nRFC": 455, "nREFI": 6825},
        "commands": {**DRAM_COMMANDS, **PIM_COMMANDS},
        "rules": [{"level": "channel", "prev": ["RD", "WR", "MAC_AB"], "next": ["RD", "WR", "MAC_AB"], "min": "nCCD"}],
        "electrical": dict(PIM_ELECTRICAL),
    }
    return DramConfig.model_validate({**given, **fields})


def ddr4(**fields: Any) -> DramConfig:
    """DDR4-3200 of the DRAMsim3 configuration: tCK 0.63 ns, eight x8 devices, no processing in memory."""
    given: dict[str, Any] = {
        "name": "test_ddr4",
        "standard": "DDR4",
        "tck_ps": 630.0,
        "channels": 1,
        "levels": {"rank": 1, "bankgroup": 4, "bank": 4},
        "rows": 65536,
        "columns": 128,
        "burst_bytes": 64,
        "pins": 64,
        "pin_gbps": None,
        "register_files": {},
        "timing": {"nBL": 4, "nRCD": 22, "nRP": 22, "nRAS": 52, "nRC": 74, "nRFC": 560, "nREFI": 12480},
        "commands": {**DRAM_COMMANDS, "REFab": {"scope": "rank", "needs": "closed", "refresh": True}},
        "rules": [],
        "electrical": dict(DDR4_ELECTRICAL),
    }
    return DramConfig.model_validate({**given, **fields})


def arch(*, dram: DramConfig | None = None, energy: dict[str, Any] | None = None, **fields: Any) -> ArchConfig:
    """A PIM-GPT-like machine with every energy coefficient known."""
    coefficients = {
        "all_bank_activate_charge": 16.0,
        "all_bank_column_charge": 1.0,
        "mac_units_power_mw": 149.29,
        "interface_pj_per_bit": 5.5,
        "asic_busy_power_mw": 304.59,
        "asic_idle_power_mw": 30.0,
    }
    functions = {"exp_taylor_terms": 6, "reciprocal_newton_steps": 3, "rsqrt_newton_steps": 1}
    given: dict[str, Any] = {
        "name": "test_machine",
        "dram": dram or globals()["dram"](),
        "pim": {"multipliers": 16, "accumulators": 4, "global_buffer_bytes": 2048},
        "asic": {
            "clock_mhz": 1000.0,
            "sram_bytes": 131072,
            "adders": 256,
            "multipliers": 128,
            "adder_latency": 2,
            "multiplier_latency": 2,
            "functions": functions,
            "function_units": "pipelined",
        },
        "energy": {**coefficients, **(energy or {})},
    }
    return ArchConfig.model_validate({**given, **fields})


def workload(**fields: Any) -> WorkloadConfig:
    """GPT-2 small, one prompt token, 1,024 generated tokens."""
    model = {"layers": 12, "d_model": 768, "heads": 12, "d_ff": 3072, "vocabulary": 50257, "context": 1024}
    model.update({name: fields.pop(name) for name in list(fields) if name in model})
    return WorkloadConfig.model_validate({"name": "gpt2_small", "model": model, **fields})


def totals(commands: dict[tuple[str, int, str], int] | None = None, **fields: Any) -> RunTotals:
    """Counters of a run; ``commands`` maps (op, layer, command) to a count."""
    return RunTotals(**{"ticks": 1000, "commands": Counter(commands or {}), **fields})


def busy_totals() -> RunTotals:
    """Counters of a small run in which everything happens at least once."""
    return totals(
        {
            ("qkv_projection", 0, "ACT_AB"): 18,
            ("qkv_projection", 0, "MAC_AB"): 1152,
            ("qkv_projection", 0, "PREab"): 18,
            ("qkv_projection", 0, "WR_GB"): 96,
            ("qkv_projection", 0, "RD_MAC"): 18,
            ("ffn_up", 1, "ACT_AB"): 24,
            ("ffn_up", 1, "MAC_AB"): 1536,
            ("ffn_up", 1, "RD_MAC"): 24,
            ("kv_write", 0, "ACT"): 12,
            ("kv_write", 0, "WR"): 12,
            ("kv_write", 0, "PREpb"): 12,
            ("gather", 0, "ACT"): 1,
            ("gather", 0, "RD"): 4,
            ("refresh", -1, "REFab"): 2,
        },
        ticks=8000,
        op_count=Counter({"qkv_projection": 1, "ffn_up": 1, "kv_write": 1, "gather": 1, "softmax": 1}),
        op_ticks=Counter({"qkv_projection": 3000, "ffn_up": 3500, "kv_write": 800, "gather": 100, "softmax": 600}),
        layer_ticks=Counter({0: 4400, 1: 3500, -1: 100}),
        asic_cycles=Counter({("softmax", 0): 500, ("softmax", 1): 90}),
        unit_busy=Counter(
            {"channel0.mac": 1344, "channel1.mac": 1344, "channel0.bus": 400, "channel1.bus": 390, "asic": 590}
        ),
        unit_stalls={
            "channel0.mac": Counter({"nRCD": 4000, "refresh": 910, "wait softmax": 1746}),
            "channel1.mac": Counter({"nRCD": 4000, "refresh": 910, "wait softmax": 1746}),
            "asic": Counter({"wait qkv_projection": 7410}),
        },
        row_open_ticks=13000,
        token_ticks=[4000, 8000],
    )


def result(**fields: Any) -> Result:
    """The result of `busy_totals`."""
    machine = arch()
    given: dict[str, Any] = {
        "arch": machine,
        "arch_hash": "a" * 64,
        "workload": workload(generate_tokens=2),
        "workload_hash": "b" * 64,
        "spec": machine.dram.resolve(),
        "totals": busy_totals(),
        "engine": "fast",
        "traffic": {"bytes": 5312, "bytes_without_pim": 1_000_000},
        "wall_seconds": 0.5,
        "peak_memory_bytes": 50_000_000,
        "baselines": [],
        "command_line": ["pimsim", "run"],
    }
    return build_result(**{**given, **fields})
