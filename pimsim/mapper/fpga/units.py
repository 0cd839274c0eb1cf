"""Streaming regions of the units around attention: linear layers, experts, LayerNorm, residual, gating, patch embedding.

Every function gives one call's region. Results are remembered, so equal calls share one region. A *beat* is what a stream
moves per cycle; ``words`` of activations make one. Ports are named by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Nest, Read, Region, Run, Stage, Write, nest

OVERHEAD = 2
"""Cycles of a call's controller: start and finish."""


@dataclass(frozen=True, slots=True)
class DirectGelu:
    """GELU from its formula: ``units`` of them share the outputs of a tile, one each ``interval`` cycles."""

    units: int
    interval: int
    depth: int


@dataclass(frozen=True, slots=True)
class LinearUnit:
    """The linear unit: tile x tile multipliers, depths in cycles, FIFOs in tiles."""

    tile: int = 16
    words: int = 8
    input_fifo: int = 48
    result_fifo: int = 2
    gather: int = 3
    multiply: int = 16
    gelu: int = 6
    scatter: int = 3
    accumulate: int = 6
    name: str = "linear"
    """The hardware that multiplies; separate units have names of their own."""
    direct_gelu: DirectGelu | None = None
    """Units behind the tiles that compute GELU; None: a table at every output."""

    @property
    def tile_beats(self) -> int:
        """Beats of a tile."""
        return self.tile // self.words


@cache
def load(beats: int, port: str, depth: int, unit: str = "weight_loader") -> Region:
    """Parameters into a buffer on the chip, a beat per cycle."""
    stage = Stage("load", (Action((("beats", 1),)),), (Run(0, beats),), depth=depth, unit=unit)
    return Region((stage,), (Fifo("beats", 0),), (Read("read", "beats", port, (Burst(beats),)),), (), OVERHEAD)


@cache
def linear(
    tokens: int,
    outputs: int,
    inputs: int,
    unit: LinearUnit,
    ports: tuple[str, str],
    *,
    gelu: bool,
    pitch: int = 0,
) -> Region:
    """``tokens`` rows of ``inputs`` words times a matrix on the chip: a tile per cycle, the input tile fastest.

    ``ports``: input and output. Input tiles of a row are read with its first output tile and kept. ``pitch``: beats from one
    row of the output to the next; 0 where one follows the other.
    """
    size = unit.tile_beats
    read = tokens * -(-inputs // unit.tile) * size
    written = -(-outputs // unit.tile) * size
    out = Burst(written, tokens, 0, pitch) if pitch not in {0, written} else Burst(tokens * written)
    return _linear(tokens, outputs, inputs, unit, ports, gelu, Burst(read), out, accumulate=False)


@cache
def expert(
    tokens: int, outputs: int, inputs: int, unit: LinearUnit, ports: tuple[str, str], *, gelu: bool, gathers: bool
) -> Region:
    """One layer of an expert for the tokens of its queue.

    The first layer (``gathers``) reads rows at scattered addresses, a request for every beat; the second adds its rows to
    those in memory, likewise beat by beat.
    """
    read = tokens * -(-inputs // unit.tile) * unit.tile_beats
    burst = Burst(1, read, 0, 1) if gathers else Burst(read)
    written = tokens * -(-outputs // unit.tile) * unit.tile_beats
    out = Burst(written) if gathers else Burst(1, written, 0, 1)
    return _linear(tokens, outputs, inputs, unit, ports, gelu, burst, out, accumulate=not gathers)


def _linear(
    tokens: int,
    outputs: int,
    inputs: int,
    unit: LinearUnit,
    ports: tuple[str, str],
    gelu: bool,
    burst: Burst,
    out: Burst,
    *,
    accumulate: bool,
) -> Region:
    size, columns, rows = unit.tile_beats, -(-inputs // unit.tile), -(-outputs // unit.tile)
    gather = Stage(
        "gather",
        (Action((("beats", 1),)), Action((("beats", 1),), (("tiles", 1),))),
        nest(Loop(tokens * columns, (Run(0, size - 1), Run(1, 1)))),
        depth=unit.gather,
    )
    direct = unit.direct_gelu if gelu else None
    tile, result = (("tiles", 1),), (("results", 1),)
    first = nest(Run(0, columns - 1), Run(1, 1))
    others = Loop(rows - 1, (Run(2, columns - 1), Run(3, 1)))
    multiply = Stage(
        "multiply",
        (Action(tile), Action(tile, result), Action(), Action((), result)),
        nest(Loop(tokens, (*first, others))),
        depth=unit.multiply + (unit.gelu if gelu and not direct else 0),
        unit=unit.name,
    )
    stages = [gather, multiply]
    fifos = [
        Fifo("beats", 0), Fifo("tiles", unit.input_fifo), Fifo("results", unit.result_fifo), Fifo("rows", unit.result_fifo),
    ]  # fmt: skip
    if direct:
        stages.append(_direct_gelu(tokens * rows, unit.tile, direct))
        fifos.append(Fifo("activated", unit.result_fifo))
    finished = ("activated" if direct else "results", 1)
    old = (("old", 1),) if accumulate else ()
    scatter = Stage(
        "scatter",
        (Action((finished, *old), (("rows", 1),)), Action(old, (("rows", 1),))),
        nest(Loop(tokens * rows, (Run(0, 1), Run(1, size - 1)))),
        depth=unit.accumulate if accumulate else unit.scatter,
    )
    reads = [Read("read_input", "beats", ports[0], (burst,))]
    if accumulate:
        fifos.append(Fifo("old", 0))
        reads.append(Read("read_output", "old", ports[1], (out,)))
    writes = (Write("write_output", "rows", ports[1], (out,)),)
    return Region((*stages, scatter), tuple(fifos), tuple(reads), writes, OVERHEAD)


def _direct_gelu(tiles: int, width: int, unit: DirectGelu) -> Stage:
    """The outputs of every tile through the units, as many at once as there are."""
    took, gave = (("results", 1),), (("activated", 1),)
    turns = -(-width // unit.units)
    body = (Run(0, 1), Run(1, turns - 2), Run(2, 1)) if turns > 1 else (Run(3, 1),)
    actions = (Action(took), Action(), Action((), gave), Action(took, gave))
    return Stage("gelu", actions, nest(Loop(tiles, body)), unit.interval, unit.depth, "gelu")


@cache
def layernorm(tokens: int, beats: int, ports: tuple[str, str], depths: tuple[int, int], fifo: int) -> Region:
    """Rows normalised one after the other: while one row is scaled, mean and variance of the next are found."""
    moments = Stage(
        "moments",
        (Action((("input", 1),)), Action((("input", 1),), (("ready", 1),))),
        nest(Loop(tokens, (Run(0, beats - 1), Run(1, 1)))),
        depth=depths[0],
    )
    scale = Stage(
        "normalize",
        (Action((("ready", 1),), (("output", 1),)), Action((), (("output", 1),))),
        nest(Loop(tokens, (Run(0, 1), Run(1, beats - 1)))),
        depth=depths[1],
        unit="layernorm",
    )
    return Region(
        (moments, scale),
        (Fifo("input", 0), Fifo("ready", 2), Fifo("output", fifo)),
        (Read("read", "input", ports[0], (Burst(tokens * beats),)),),
        (Write("write", "output", ports[1], (Burst(tokens * beats),)),),
        OVERHEAD,
    )


@cache
def residual(beats: int, ports: tuple[str, str, str], depth: int, fifo: int) -> Region:
    """Two features added beat by beat; ``ports``: both inputs and the output."""
    return _of_two("add", "sum", "residual", beats, ports, depth, fifo)


@cache
def product(beats: int, ports: tuple[str, str, str], depth: int, fifo: int) -> Region:
    """Two features multiplied beat by beat; ``ports``: both inputs and the output."""
    return _of_two("times", "product", "gate", beats, ports, depth, fifo)


def _of_two(
    stage: str, result: str, unit: str, beats: int, ports: tuple[str, str, str], depth: int, fifo: int
) -> Region:
    """A beat of the result for a beat of each of two features."""
    both = (("one", 1), ("other", 1))
    return Region(
        (Stage(stage, (Action(both, ((result, 1),)),), (Run(0, beats),), depth=depth, unit=unit),),
        (Fifo("one", 0), Fifo("other", 0), Fifo(result, fifo)),
        (
            Read("read_one", "one", ports[0], (Burst(beats),)),
            Read("read_other", "other", ports[1], (Burst(beats),)),
        ),
        (Write("write", result, ports[2], (Burst(beats),)),),
        OVERHEAD,
    )  # fmt: skip


@cache
def rotate(
    tokens: int,
    heads: int,
    beats: int,
    ports: tuple[str, str, str],
    depths: tuple[int, int],
    fifo: int,
    pitch: int = 0,
    *,
    same: bool = False,
) -> Region:
    """Heads of ``beats`` beats turned one after the other: while one is turned, the next is collected.

    ``ports``: rows, cosines and sines (a row of ``beats`` for each token, taken with its first head), and output; ``pitch``:
    beats from one row of the output to the next, 0 where one follows the other; ``same``: all tokens have the same angles.
    """
    beat, head = ("input", 1), (("heads", 1),)
    collect = Stage(
        "collect",
        (Action((beat,)), Action((beat,), head)),
        nest(Loop(tokens * heads, (Run(0, beats - 1), Run(1, 1)))),
        depth=depths[0],
    )
    out = (("output", 1),)
    turn = Stage(
        "turn",
        (Action((*head, ("angles", beats)), out), Action(head, out), Action((), out)),
        nest(Loop(tokens, (Run(0, 1), Run(2, beats - 1), Loop(heads - 1, (Run(1, 1), Run(2, beats - 1)))))),
        depth=depths[1],
        unit="rotary",
    )
    width = heads * beats
    written = Burst(width, tokens, 0, pitch) if pitch not in {0, width} else Burst(tokens * width)
    return Region(
        (collect, turn),
        (Fifo("input", 0), Fifo("angles", 0), Fifo("heads", 2), Fifo("output", fifo)),
        (
            Read("read", "input", ports[0], (Burst(tokens * width),)),
            Read("read_angles", "angles", ports[1], (Burst(beats, tokens) if same else Burst(tokens * beats),)),
        ),
        (Write("write", "output", ports[2], (written,)),),
        OVERHEAD,
    )


@cache
def clear(beats: int, port: str, depth: int, fifo: int) -> Region:
    """Zeros into a feature."""
    stage = Stage("zeros", (Action((), (("zeros", 1),)),), (Run(0, beats),), depth=depth)
    return Region((stage,), (Fifo("zeros", fifo),), (), (Write("write", "zeros", port, (Burst(beats),)),), OVERHEAD)


@cache
def copy(beats: int, ports: tuple[str, str], depth: int, fifo: int) -> Region:
    """A feature from one place to another, such as the class token."""
    stage = Stage("copy", (Action((("input", 1),), (("output", 1),)),), (Run(0, beats),), depth=depth)
    return Region(
        (stage,),
        (Fifo("input", 0), Fifo("output", fifo)),
        (Read("read", "input", ports[0], (Burst(beats),)),),
        (Write("write", "output", ports[1], (Burst(beats),)),),
        OVERHEAD,
    )


@dataclass(frozen=True, slots=True)
class GateUnit:
    """Gating: depths and intervals in cycles."""

    score: int = 8
    statistics: int = 24
    statistics_interval: int = 3
    select: int = 2
    normalize: int = 80
    queue_interval: int = 2


@cache
def gating(tokens: int, beats: int, experts: int, top_k: int, unit: GateUnit, port: str) -> Region:
    """Scores of all experts for one token after the other, softmax statistics beside the choice of the best.

    Tokens do not overlap: the first beat of a token waits for the end of the one before.
    """
    beat, done = ("beats", 1), ((("done", 1),) if tokens > 1 else ())
    starts = (("to_statistics", 1), ("to_select", 1))
    score = Stage(
        "score",
        (Action((beat,)), Action((beat,), starts), Action((beat, *done)), Action((beat, *done), starts)),
        _rows(tokens, beats),
        depth=unit.score,
        unit="gating",
    )

    def over_experts(name: str, interval: int, depth: int) -> Stage:
        took, gave = ((f"to_{name}", 1),), ((f"from_{name}", 1),)
        actions = (Action(took), Action(), Action((), gave), Action(took, gave))
        body = (Run(0, 1), Run(1, experts - 2), Run(2, 1)) if experts > 1 else (Run(3, 1),)
        return Stage(name, actions, nest(Loop(tokens, body)), interval, depth)

    both = (("from_statistics", 1), ("from_select", 1))
    finish = Stage(
        "normalize",
        (Action(both), Action(), Action((), done), Action(both, done)),
        _chosen(tokens, top_k),
        depth=unit.normalize,
    )
    names = ("to_statistics", "to_select", "from_statistics", "from_select", "done")
    return Region(
        (
            score,
            over_experts("statistics", unit.statistics_interval, unit.statistics),
            over_experts("select", 1, unit.select),
            finish,
        ),
        (Fifo("beats", 0), *(Fifo(name, 1) for name in names if name != "done" or tokens > 1)),
        (Read("read", "beats", port, (Burst(tokens * beats),)),),
        (),
        OVERHEAD,
    )


def _rows(tokens: int, beats: int) -> tuple[Nest, ...]:
    """Beats of all tokens; the first beat of every token but the first waits (actions 2 and 3)."""
    if beats == 1:
        return nest(Run(1, 1), Run(3, tokens - 1))
    return nest(Run(0, beats - 1), Run(1, 1), Loop(tokens - 1, (Run(2, 1), Run(0, beats - 2), Run(1, 1))))


def _chosen(tokens: int, top_k: int) -> tuple[Nest, ...]:
    """The chosen experts of all tokens; the last of every token but the last tells that the token is done."""
    if top_k == 1:
        return nest(Run(3, tokens - 1), Run(0, 1))
    return nest(Loop(tokens - 1, (Run(0, 1), Run(1, top_k - 2), Run(2, 1))), Run(0, 1), Run(1, top_k - 1))


@cache
def fill_queues(tokens: int, interval: int) -> Region:
    """Every token's number and scores appended to the queues of its experts; on the chip."""
    return Region((Stage("queues", (Action(),), (Run(0, tokens),), interval, interval),), (), (), (), OVERHEAD)


@dataclass(frozen=True, slots=True)
class PatchShape:
    """A row of patches: ``pixel_beats`` beats of pixels, each ``patches`` patches wide; a row of a feature is ``beats`` beats."""

    columns: int
    """Beats of one line of pixels."""
    patch: int
    """Lines of a patch."""
    colours: int
    """Parts of the image, ``pitch`` beats apart, each with all its lines."""
    patches: int
    beats: int
    pitch: int = 0

    @property
    def lines(self) -> int:
        """Lines of pixels of all colours."""
        return self.patch * self.colours


@cache
def patch_row(shape: PatchShape, interval: int, depth: int, ports: tuple[str, str, str], fifo: int) -> Region:
    """One row of patches: every beat of pixels meets the weights of all outputs, ``beats`` iterations.

    ``ports``: image, position embedding and output. The sums are complete with the last line of pixels: its iterations add
    the position embedding and send the words of their patches, each patch of a beat by a stream of its own.
    """
    width, p = shape.beats, shape.patches
    pixel = ("pixels", 1)
    positions = tuple((f"positions{number}", 1) for number in range(p))
    out = tuple((f"output{number}", 1) for number in range(p))
    actions = (Action((pixel,)), Action(), Action((pixel, *positions), out), Action(positions, out))
    embed = Stage(
        "embed",
        actions,
        nest(
            Loop(shape.columns * (shape.lines - 1), (Run(0, 1), Run(1, width - 1))),
            Loop(shape.columns, (Run(2, 1), Run(3, width - 1))),
        ),
        interval,
        depth,
        "patch_embedding",
    )
    tokens = Burst(width, shape.columns, 0, p * width)
    return Region(
        (embed,),
        (
            Fifo("pixels", 0),
            *(Fifo(name, 0) for name, _ in positions),
            *(Fifo(name, fifo) for name, _ in out),
        ),
        (
            Read(
                "read_image", "pixels", ports[0], (Burst(shape.columns * shape.patch, shape.colours, 0, shape.pitch),)
            ),
            *(Read(f"read_{name}", name, ports[1], (tokens,)) for name, _ in positions),
        ),
        tuple(Write(f"write_{name}", name, ports[2], (tokens,)) for name, _ in out),
        OVERHEAD,
    )


__all__ = [
    "DirectGelu", "GateUnit", "LinearUnit", "PatchShape", "clear", "copy", "expert", "fill_queues", "gating", "layernorm",
    "linear", "load", "patch_row", "product", "residual", "rotate",
]  # fmt: skip
