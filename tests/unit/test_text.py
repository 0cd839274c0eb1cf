"""The text form of a block: exact round trips, and errors that name the line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch, load_workload
from pimsim.errors import ProgramError
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Block, Compute, Item, Op, Repeat, Run, Step
from pimsim.program.text import from_text, to_text
from pimsim.workload.models import build_graph

NAMES = st.one_of(st.text(), st.sampled_from(["ACT", "repeat", "end", "step", "a,b", "#", "x=y", '"', "\\", "\u2028"]))
NUMBERS = st.integers(-(2**40), 2**40)
RUNS = st.builds(
    Run,
    NAMES,
    st.lists(st.integers(-2, 9), max_size=5).map(tuple),
    row=NUMBERS,
    column=NUMBERS,
    count=NUMBERS,
    sweep=st.booleans(),
    lane=NUMBERS,
    buffer=NUMBERS,
    sram=NUMBERS,
    sram_step=NUMBERS,
    sram_channel=NUMBERS,
    elements=NUMBERS,
) | st.builds(Run, NAMES, st.just((-1, 0)))
ITEMS: st.SearchStrategy[Item] = st.recursive(
    RUNS,
    lambda inner: st.builds(Repeat, NUMBERS, st.lists(inner, max_size=3).map(tuple), NUMBERS, NUMBERS),
    max_leaves=6,
)
COMPUTES = st.builds(Compute, NAMES, NUMBERS, st.lists(NUMBERS, max_size=3).map(tuple), NUMBERS, NAMES)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    tokens = st.lists(NAMES.map(lambda name: f"t{name}"), max_size=3).map(tuple)
    names = st.lists(NAMES, max_size=3).map(tuple)

    def stream(items: st.SearchStrategy[object], signals: st.SearchStrategy[tuple[str, ...]]) -> tuple[Step, ...]:
        steps = st.builds(
            Step, st.integers(-1, 3), st.lists(items, max_size=3).map(tuple), names.map(_carried), signals
        )
        return tuple(draw(st.lists(steps, max_size=2)))

    kinds = [stream(ITEMS, tokens) for _ in range(draw(st.integers(0, 2)))]
    channels = tuple(draw(st.sampled_from(kinds)) for _ in range(draw(st.integers(0, 4)))) if kinds else ()
    ops = tuple(draw(st.lists(st.builds(Op, NAMES, NAMES), max_size=3)))
    return Block(draw(NAMES), ops, channels, stream(COMPUTES, tokens))


def _carried(names: tuple[str, ...]) -> tuple[str, ...]:
    """Tokens that nobody in the block signals."""
    return tuple(f"c{name}" for name in names)


def assert_same(a: Block, b: Block) -> None:
    assert (a.name, a.ops, a.channels, a.asic) == (b.name, b.ops, b.channels, b.asic)


@given(blocks())
@settings(deadline=None)
def test_round_trip(block: Block) -> None:
    text = to_text(block)
    assert_same(from_text(text), block)
    assert to_text(from_text(text)).count("\n") == text.count("\n")


@given(blocks())
@settings(deadline=None, max_examples=30)
def test_one_item_per_line(block: Block) -> None:
    assert to_text(block).isprintable() or to_text(block).replace("\n", "").isprintable()


@pytest.mark.parametrize("arch", ["pim_gpt", "pim_gpt_v1"])
def test_round_trip_of_mapped_blocks(arch: str) -> None:
    machine, work = load_arch(arch).value, load_workload("gpt2_decode").value
    mapping = Mapping(work, build_graph(work), machine, machine.dram.resolve())
    for block in {placed.block: None for placed in mapping.forward_pass(700)}:
        text = to_text(block)
        again = from_text(text)
        assert_same(again, block)
        assert again.order == block.order
        assert to_text(again) == text
        assert len({id(s) for s in again.channels}) == len({id(s) for s in block.channels})


def test_what_it_looks_like() -> None:
    body = (Run("ACT_AB", (-1, -1, -1), row=0), Run("MAC_AB", (-1, -1, 2), row=0, column=0, count=48, buffer=0))
    stream = (Step(0, (Repeat(300, body, row_step=1),), ("norm",), ("out0",)),)
    add = Compute("add", 96, (0, 5), 0, "qkv.bias")
    block = Block("projection", (Op("linear", "h0.qkv"),), (stream, stream), (Step(0, (add,), ("out0",)),))
    assert to_text(block).splitlines() == [
        "block projection",
        "op 0 linear h0.qkv",
        "channels 0,1",
        "step op=0 waits=norm signals=out0  # h0.qkv",
        "  repeat 300 row_step=1",
        "    ACT_AB @*,*,* row=0",
        "    MAC_AB @*,*,2 row=0 column=0 count=48 buffer=0",
        "  end",
        "asic",
        "step op=0 waits=out0  # h0.qkv",
        "  compute add length=96 sources=0,5 target=0 parameters=qkv.bias",
    ]


def test_comments_indentation_and_blank_lines_mean_nothing() -> None:
    block = from_text('\n  # note\nblock "a # b" # c\n\nchannels 0\n\tstep op=0\nPREab @* # close\nasic\n')
    assert block.name == "a # b"
    assert block.channels == ((Step(0, (Run("PREab", (-1,)),)),),)


HEAD = "block b\nop 0 k n\nchannels 0\nstep op=0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: must be block, not the end of the text"),
        ("blok b", "line 1: must be block, not blok"),
        ("block a b", "line 1: must be 'block NAME', not 'block a b'"),
        ("block b\nop 1 k n", "line 2: must be 'op 0 KIND NAME', not 'op 1 k n'"),
        ("block b", "line 2: must be asic, not the end of the text"),
        ("block b\nchannels", "line 2: must be 'channels NUMBER,NUMBER,...'"),
        ("block b\nchannels x", "line 2: channel must be a whole number, not 'x'"),
        ("block b\nchannels -1", "line 2: channel must be at least 0, not -1"),
        ("block b\nchannels 0,0", "line 2: channel 0 must be listed once, not again"),
        ("block b\nasic 1", "line 2: must end here, not go on with '1'"),
        ("block b\nasic\nstep waits=a", "line 3: step must have op=NUMBER"),
        ("block b\nasic\nstep op=0\nPREab @*", "line 4: must be compute or step, not PREab"),
        ("block b\nasic\nstep op=0\ncompute add", "line 4: compute must have length=NUMBER"),
        ("block b\nasic\nstep op=0\ncompute", "line 4: must be 'compute FUNCTION length=NUMBER'"),
        (HEAD + "PREab", "line 5: PREab must be followed by an address such as @*,*,0, not ''"),
        (HEAD + "PREab @x", "line 5: address must be a whole number, not 'x'"),
        (HEAD + "RD @0 rwo=1", "line 5: field must be one of row, column, "),
        (HEAD + "RD @0 row", "line 5: must be row=VALUE, not 'row'"),
        (HEAD + "RD @0 row=1 row=2", "line 5: row must be given once, not again"),
        (HEAD + "RD @0 row=1.5", "line 5: row must be a whole number, not '1.5'"),
        (HEAD + '"RD @0', 'line 5: name must have letters, digits and _.+- only, or be a JSON string, not "RD'),
        (HEAD + "repeat", "line 5: must be 'repeat COUNT', not 'repeat'"),
        (HEAD + "repeat 2\nPREab @*\n\nasic", "line 8: must be end, not asic"),
        (HEAD + "repeat 2\nPREab @*", "line 7: must be end, not the end of the text"),
        (HEAD + "compute add length=1", "line 5: must be a command, repeat, end, step, channels or asic, not compute"),
        (HEAD + "end", "line 5: must be asic, not end"),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ProgramError, match=f"^{re.escape(message)}"):
        from_text(text)
