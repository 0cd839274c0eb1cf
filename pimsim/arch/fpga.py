"""A streaming accelerator on an FPGA: fabric clock, memory ports and the attention unit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.arch.dram import DramConfig
from pimsim.arch.formats import FixedFormat
from pimsim.arch.fpga_primitives import FpgaPrimitives
from pimsim.arch.system import AnyArch
from pimsim.model import Documented, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class FpgaPorts(Documented):
    """Memory ports of one kind; each has a bandwidth of its own in each direction."""

    names: list[str] = Field(min_length=1, description="one name for each port")
    width_bits: PositiveInt = Field(description="data width on the memory side")
    clock_mhz: PositiveFloat = Field(description="clock on the memory side")
    latency: PositiveInt = Field(description="fabric cycles from request to first beat, and from last beat to response")
    max_burst: PositiveInt = Field(description="longest burst in beats of the fabric")
    outstanding: PositiveInt = Field(description="requests in flight for each stream")


class FpgaMemory(Documented):
    """What is behind the ports."""

    kind: Literal["fixed", "dram"] = Field(
        description="fixed: the latency of the ports, and bandwidth for all of them; dram: a DRAM that they share, port after "
        "port on its channels"
    )
    path_cycles: PositiveInt = Field(description="fabric cycles between a port and the DRAM, each way")
    dram: DramConfig | None = Field(None, description="needed where kind is dram")


class FpgaThreePass(Documented):
    """Pipelines of the three-pass softmax; one lane (all heads of a pair) per iteration."""

    maximum_interval: PositiveInt
    maximum_depth: PositiveInt
    sum_interval: PositiveInt = Field(description="an exponential and an addition")
    sum_depth: PositiveInt
    divide_interval: PositiveInt = Field(description="an exponential and a division")
    divide_depth: PositiveInt


class FpgaAttention(Documented):
    """Units of the two attention products and of the softmax between them; depths in cycles."""

    schedule: Literal["reordered", "naive"] = Field(
        "reordered",
        description="of encoders. reordered: p rows in skewed lanes share a stream of keys; naive: one row meets p keys at once",
    )
    softmax: Literal["single_pass", "three_pass"] = Field(
        "single_pass",
        description="single_pass: running sum and bias beside the scores, the weighted sum divides; three_pass: maximum, sum "
        "and division read all scores each",
    )
    three_pass: FpgaThreePass | None = Field(None, description="needed where softmax is three_pass")
    parallelism: PositiveInt = Field(description="query rows (reordered) or keys (naive) at once")
    load_depth: PositiveInt
    product_depth: PositiveInt
    statistics_depth: PositiveInt
    statistics_interval: PositiveInt
    weighted_depth: PositiveInt
    store_depth: PositiveInt
    fifo_depth: PositiveInt = Field(description="tokens between two stages")
    placement: dict[str, str] = Field(description="stream -> port")


class FpgaDirectGelu(Documented):
    """GELU computed with an exponential and a division behind the linear unit."""

    units: PositiveInt = Field(description="copies that share the outputs of a tile")
    interval: PositiveInt
    depth: PositiveInt


class FpgaEncoder(Documented):
    """Units of a vision transformer apart from attention; depths in cycles, without what the memory port adds."""

    tile: PositiveInt = Field(description="inputs and outputs of the linear unit at once, tile x tile multipliers")
    weight_bits: PositiveInt = Field(description="width of a weight or bias in memory")
    pixel_bits: PositiveInt = Field(description="width of a colour of a pixel in memory")
    buffer_weights: PositiveInt = Field(description="weights that an on-chip buffer holds")
    linear_units: Literal["unified", "separate"] = Field(
        "unified",
        description="unified: one unit and two buffers for all matrices; separate: a unit and a buffer for each use",
    )
    separate_tile: PositiveInt | None = Field(None, description="tile of a separate unit; needed where they are")
    gelu: Literal["table", "direct"] = Field(
        "table",
        description="table: ReLU less a correction from a table, at every output of a tile; direct: few units behind it",
    )
    direct_gelu: FpgaDirectGelu | None = Field(None, description="needed where gelu is direct")
    weight_load_depth: PositiveInt
    weight_ports: list[str] | None = Field(
        None,
        min_length=1,
        description="in decoders: ports that bring a matrix together, each an equal share of its outputs; absent: the port of "
        "parameters brings all",
    )
    input_fifo: PositiveInt = Field(description="tiles between the reader and the linear unit")
    result_fifo: PositiveInt = Field(description="tiles between the linear unit and the writer")
    gather_depth: PositiveInt = Field(description="reader of the linear unit: beats to tiles")
    linear_depth: PositiveInt
    gelu_depth: PositiveInt
    scatter_depth: PositiveInt = Field(description="writer of the linear unit: tiles to beats")
    accumulate_depth: PositiveInt = Field(description="adding an expert's row to what other experts gave")
    moments_depth: PositiveInt = Field(description="first half of a LayerNorm: mean and variance of a row")
    normalize_depth: PositiveInt = Field(description="second half of a LayerNorm: scale and shift of a row")
    residual_depth: PositiveInt
    patch_interval: PositiveInt
    patch_depth: PositiveInt
    gate_depth: PositiveInt = Field(description="scores of all experts for one beat of a token")
    gate_statistics_interval: PositiveInt
    gate_statistics_depth: PositiveInt
    select_depth: PositiveInt = Field(description="choice of the top experts")
    gate_normalize_depth: PositiveInt = Field(description="exponential and division of the chosen scores")
    queue_interval: PositiveInt = Field(description="cycles to append a token to the queues of its experts")
    order: Literal["expert_by_expert", "token_by_token"] = Field(
        description="expert_by_expert reads the weights of an expert once a layer, token_by_token for each of its tokens"
    )
    weight_prefetch: Literal["experts", "layers", "none"] = Field(
        description="experts: the next weights are read while an expert computes; layers: in decoders, also while any other "
        "matrix is applied; none: never while anything computes"
    )
    placement: dict[str, str] = Field(description="stream -> port")


Quantity = Literal[
    "lanes", "single_pass_heads", "three_pass_heads", "single_pass_scores", "multipliers", "table_gelu_outputs", "direct_gelus",
    "buffer_weights", "patch_weights", "nothing",
]  # fmt: skip
"""What the size of a unit follows: query rows at once; heads, or heads x lanes, where the softmax has this form; tile x tile of
all linear units; outputs with a GELU table, or GELU units, where there are some; weights in all buffers, or of the patch
embedding."""


class FpgaUnitCost(Documented):
    """Resources of a unit of one size."""

    section: Literal["attention", "encoder"] = Field(description="encoder: absent where attention alone is computed")
    works_with: str = Field(description="unit of the result's `units` that works when this one does")
    grows_with: Quantity
    quantity: PositiveInt = Field(description="size that the figures are for; others are proportional")
    dsp: NonNegativeInt
    bram18: NonNegativeInt
    lut: NonNegativeInt
    ff: NonNegativeInt


class FpgaDevice(Documented):
    """What a device offers."""

    name: str
    dsp: PositiveInt
    bram18: PositiveInt = Field(description="block RAMs of 18 kbit")
    lut: PositiveInt
    ff: PositiveInt


class FpgaResources(Documented):
    """The device and what the units cost on it; a design that needs more is refused."""

    device: FpgaDevice | None = Field(None, description="absent: nobody checks whether the design fits")
    units: dict[str, FpgaUnitCost]


class FpgaPower(Documented):
    """Power of the board at rest, and energy of what works; a picojoule per cycle is a microwatt per MHz."""

    static_w: NonNegativeFloat | None = Field(description="power of the whole board while nothing works; null: unknown")
    dsp_pj: NonNegativeFloat = Field(description="energy of a DSP block in a cycle in which its unit works")
    bram18_pj: NonNegativeFloat
    lut_pj: NonNegativeFloat
    ff_pj: NonNegativeFloat
    memory_pj_per_bit: NonNegativeFloat | None = Field(
        description="energy of a bit through a memory port; null: unknown"
    )


class FpgaFormats(Documented):
    """Fixed-point formats: ``fixed32_10_wrap`` has 32 bits, 10 of them before the point, truncates and wraps."""

    features: FixedFormat = Field(description="activations, in memory and between units")
    accumulator: FixedFormat = Field(description="sums of a product, narrowed after every tile or beat")
    softmax: FixedFormat = Field(description="exponentials, sums, biases and weights of attention and gating")
    linear_weights: FixedFormat = Field(description="weights of linear layers and of gating")
    patch_weights: FixedFormat
    attention_biases: FixedFormat = Field(description="biases of the four products of attention")
    biases: FixedFormat = Field(description="all other biases, and the shift of a LayerNorm")
    norm_gain: FixedFormat = Field(description="gain of a LayerNorm")
    pixels: FixedFormat
    gelu_table: FixedFormat = Field(description="entries of the table of ReLU(x) - GELU(x)")
    gelu_entries: PositiveInt = Field(ge=2, le=65_536)
    gelu_step_bits: NonNegativeInt = Field(le=16, description="entries are 2^-gelu_step_bits apart")
    gelu_interpolates: bool = Field(description="linearly between neighbours; otherwise the entry below is taken")


class FpgaConfig(Documented):
    """The programmable logic."""

    clock_mhz: PositiveFloat = Field(description="clock of the fabric")
    beat_bits: PositiveInt = Field(description="width of the streams inside")
    word_bits: PositiveInt = Field(description="width of an activation")
    board_power_w: PositiveFloat | None = Field(
        description="power of the whole board while it computes, if `power` is absent; null: unknown"
    )
    power: FpgaPower | None = Field(None, description="needs the costs in `resources`")
    ports: FpgaPorts
    memory: FpgaMemory | None = Field(None, description="absent: fixed")
    attention: FpgaAttention
    encoder: FpgaEncoder | None = Field(None, description="absent on a machine that computes attention products only")
    resources: FpgaResources | None = Field(
        None, description="absent: the design has no costs, and nobody checks whether it fits"
    )
    formats: FpgaFormats | None = Field(None, description="absent: the machine has times and no numbers (no --check)")
    primitives: FpgaPrimitives | None = Field(
        None, description="absent on a machine that runs no attention algorithm but those of fpga.attention"
    )


class FpgaArchConfig(AnyArch):
    """A machine of kind ``fpga``, as an ``arch_configs/*.yaml`` file describes it."""

    kind: Literal["fpga"] = "fpga"
    fpga: FpgaConfig


__all__ = [
    "FpgaArchConfig", "FpgaAttention", "FpgaConfig", "FpgaDevice", "FpgaDirectGelu", "FpgaEncoder", "FpgaFormats",
    "FpgaMemory", "FpgaPorts", "FpgaPower", "FpgaResources", "FpgaThreePass", "FpgaUnitCost",
]  # fmt: skip
