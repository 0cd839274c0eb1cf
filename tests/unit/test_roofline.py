"""Roofs by hand, and work against sums over every token."""

from __future__ import annotations

import builders
import pytest

from pimsim import simulate
from pimsim.errors import InputError

SMALL = {
    "workload.generate_tokens": 5,
    "workload.prompt_tokens": 3,
    "workload.model.layers": 2,
    "workload.model.d_model": 128,
    "workload.model.heads": 4,
    "workload.model.d_ff": 192,
}


def test_the_roofs_of_pim_gpt() -> None:
    """8 channels of 16 banks with 16 multipliers; a MAC command and a 32-byte burst each clock of 1 ns."""
    roofs = simulate("pim_gpt", "gpt2_decode", overrides=SMALL).roofline
    assert roofs is not None
    assert roofs.peak_flop_s == pytest.approx(8 * 16 * 16 * 2 / 1e-9)
    assert roofs.bank_bytes_s == pytest.approx(8 * 16 * 32 / 1e-9)
    assert roofs.pin_bytes_s == pytest.approx(8 * 32 / 1e-9)


def test_slower_pins_lower_their_roof_only() -> None:
    base = simulate("pim_gpt", "gpt2_decode", overrides=SMALL).roofline
    slow = simulate("pim_gpt", "gpt2_decode", overrides={**SMALL, "arch.dram.pin_gbps": 4}).roofline
    assert base is not None
    assert slow is not None
    assert slow.bank_bytes_s == base.bank_bytes_s
    assert slow.pin_bytes_s == pytest.approx(base.pin_bytes_s / 4)


def test_work_is_the_sum_over_all_tokens() -> None:
    result = simulate("pim_gpt", "gpt2_decode", overrides=SMALL)
    assert result.roofline is not None
    ops, d, passes = result.roofline.ops, 128, 7
    assert set(ops) == {
        "qkv_projection", "attention_scores", "attention_values", "output_projection", "ffn_up", "ffn_down"
    }  # fmt: skip
    assert ops["ffn_up"].flop == 2 * 2 * passes * d * 192
    assert ops["ffn_up"].bytes == 2 * 2 * passes * d * 192
    over_contexts = sum(2 * d * context for context in range(1, passes + 1))
    assert ops["attention_scores"].flop == 2 * over_contexts
    assert ops["attention_scores"].bytes == 2 * over_contexts
    assert ops["qkv_projection"].seconds == result.ops["qkv_projection"].seconds


def test_nothing_is_above_the_roof_of_the_banks() -> None:
    roofs = simulate("pim_gpt", "gpt2_decode", overrides={"workload.generate_tokens": 64}).roofline
    assert roofs is not None
    rates = {kind: op.bytes / op.seconds for kind, op in roofs.ops.items()}
    assert max(rates.values()) < roofs.bank_bytes_s
    assert rates["ffn_up"] > roofs.pin_bytes_s  # more than a processor beside the memory could read


def test_a_machine_without_roofs_has_no_plot() -> None:
    with pytest.raises(InputError, match=r"^plot_roofline must have a result with a roofline; that of .* has none$"):
        builders.result().plot_roofline()
