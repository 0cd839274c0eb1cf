"""Blocks as text that reads like a listing, and back.

::

    block attention
    channels 8
    address 3
    op h0.scores.0 attention_scores
    op h0.softmax.0 softmax

    channel 0-7:
      step h0.scores.0 wait qkv.part0 signal scores0.0
        ACT_AB row 96
        WR_GB x48 buffer 0 sram 1536 sram+16
        repeat 4 row+3 sram+2048:
          MAC_AB x48 at *.*.1 row 96 column 0 buffer 0
        RD_MAC at *.*.1 sram 9216 sram+16/channel

    asic:
      step h0.softmax.0 wait scores0.0 signal softmax.h0
        softmax 96 from 9216 into 9216 using sums

``at`` gives the entries of an address, ``*`` for one that is not addressed; without it, none of ``address`` entries is.
``sweep`` goes from bank to bank, ``sram+16`` is the step from one command (or pass) to the next, ``sram+16/channel`` that
from one channel to the next. Channels that are not named have nothing to do. Names that are not plain words are in double
quotes, as in JSON. A line that begins with ``#`` is a comment.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pimsim.errors import ProgramError
from pimsim.program.isa import Block, Compute, Item, Op, Repeat, Run, Step, Stream, Where

INDENT = "  "
WORDS = ("asic", "at", "from", "into", "op", "repeat", "signal", "step", "sweep", "using", "wait")
"""Words with a meaning; a name that is one of them is written in quotes."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')
_STEP = re.compile(r"(row|sram)([+-][0-9]+)(/channel)?")
_WHERE = re.compile(r"(?:\*|-?[0-9]+)(?:\.(?:\*|-?[0-9]+))*")
_COUNT = re.compile(r"x(-?[0-9]+)")
_INTEGER = re.compile(r"-?[0-9]+")


def to_text(block: Block) -> str:
    """A block as text; `from_text` gives an equal block."""
    width = _address_width(block)
    lines = [f"block {_quoted(block.name)}", f"channels {len(block.channels)}", f"address {width}"]
    lines += [f"op {_quoted(op.name)} {_quoted(op.kind)}" for op in block.ops]
    names = _op_names(block.ops)
    for channels, stream in _shared(block.channels):
        if stream:
            lines += ["", f"channel {_ranges(channels)}:", *_stream_lines(stream, names, width)]
    if block.asic:
        lines += ["", "asic:", *_stream_lines(block.asic, names, width)]
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Block:
    """The block that a text describes; channels under one heading share a stream.

    Raises:
        ProgramError: a line is malformed (its number is named), or tokens are (`pimsim.program.order`).
        Deadlock: steps wait for each other in a circle.
    """
    return _Parser(text).block()


# ------------------------------------------------------------------------------------------------------------ writing


def _address_width(block: Block) -> int:
    """Entries of the addresses in the block; the most common number should they differ."""
    widths = Counter(len(run.where) for stream in block.channels for step in stream for run in _runs(step.items))
    return max(widths, key=lambda width: (widths[width], width), default=0)


def _runs(items: Iterable[object]) -> Iterator[Run]:
    for item in items:
        if isinstance(item, Repeat):
            yield from _runs(item.body)
        elif isinstance(item, Run):
            yield item


def _op_names(ops: Sequence[Op]) -> list[str]:
    """How steps name their operations: by name or, where that is not unique, by ``#index``."""
    count = Counter(op.name for op in ops)
    return [_quoted(op.name) if count[op.name] == 1 else f"#{number}" for number, op in enumerate(ops)]


def _shared(streams: Sequence[Stream]) -> list[tuple[list[int], Stream]]:
    """Streams with the channels that run equal ones."""
    by_identity: dict[int, tuple[list[int], Stream]] = {}
    for channel, stream in enumerate(streams):
        by_identity.setdefault(id(stream), ([], stream))[0].append(channel)
    found: dict[Stream, list[int]] = {}
    for channels, stream in by_identity.values():
        found.setdefault(stream, []).extend(channels)
    return [(sorted(channels), stream) for stream, channels in found.items()]


def _ranges(channels: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2,5``."""
    runs: list[list[int]] = []
    for channel in channels:
        if runs and runs[-1][-1] == channel - 1:
            runs[-1].append(channel)
        else:
            runs.append([channel])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _stream_lines(stream: Stream, names: Sequence[str], width: int) -> Iterator[str]:
    for step in stream:
        head = [f"{INDENT}step", names[step.op]]
        for word, tokens in (("wait", step.waits), ("signal", step.signals)):
            head += [word, *map(_quoted, tokens)] if tokens else []
        yield " ".join(head)
        yield from _item_lines(step.items, width, 2)


def _item_lines(items: Iterable[object], width: int, depth: int) -> Iterator[str]:
    for item in items:
        if isinstance(item, Repeat):
            yield INDENT * depth + " ".join(["repeat", f"{item.count}", *_steps(item)]) + ":"
            yield from _item_lines(item.body, width, depth + 1)
        elif isinstance(item, Run):
            yield INDENT * depth + _run_line(item, width)
        elif isinstance(item, Compute):
            yield INDENT * depth + _compute_line(item)


def _steps(loop: Repeat) -> Iterator[str]:
    if loop.row_step:
        yield f"row{loop.row_step:+}"
    if loop.sram_step:
        yield f"sram{loop.sram_step:+}"


def _run_line(run: Run, width: int) -> str:
    parts = [_quoted(run.command)]
    if run.count != 1:
        parts.append(f"x{run.count}")
    if run.sweep:
        parts.append("sweep")
    if run.where != (-1,) * width:
        parts += ["at", ".".join("*" if index == -1 else str(index) for index in run.where) or '""']
    for word in ("row", "column", "lane", "buffer", "sram"):
        if getattr(run, word) != -1:
            parts += [word, str(getattr(run, word))]
    if run.sram_step:
        parts.append(f"sram{run.sram_step:+}")
    if run.sram_channel:
        parts.append(f"sram{run.sram_channel:+}/channel")
    return " ".join(parts)


def _compute_line(compute: Compute) -> str:
    parts = [_quoted(compute.function), str(compute.length)]
    if compute.sources:
        parts += ["from", *map(str, compute.sources)]
    if compute.target != -1:
        parts += ["into", str(compute.target)]
    if compute.parameters:
        parts += ["using", _quoted(compute.parameters)]
    return " ".join(parts)


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name not in WORDS else json.dumps(name)


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass
class _Line:
    """A line as its parts."""

    number: int
    depth: int
    parts: list[str]
    heading: bool
    """Ends with a colon: what follows, indented, belongs to it."""
    at: int = 0

    def error(self, message: str) -> ProgramError:
        """The error for this line."""
        return ProgramError(f"line {self.number}: {message}")

    @property
    def left(self) -> bool:
        """Whether parts are left."""
        return self.at < len(self.parts)

    def peek(self) -> str:
        """The next part, or nothing."""
        return self.parts[self.at] if self.left else ""

    def word(self, what: str) -> str:
        """The next part as it stands."""
        if not self.left:
            raise self.error(f"{what} must follow, not the end of the line")
        self.at += 1
        return self.parts[self.at - 1]

    def name(self, what: str) -> str:
        """The next part as a name."""
        word = self.word(what)
        if not word.startswith('"'):
            if word in WORDS:
                raise self.error(f'{what} must follow, not {word!r} (a name is written "{word}")')
            return word
        try:
            return str(json.loads(word))
        except ValueError:
            raise self.error(f"{what} must be a word or a string in double quotes, not {word}") from None

    def integer(self, what: str) -> int:
        """The next part as a number."""
        word = self.word(what)
        if not _INTEGER.fullmatch(word):
            raise self.error(f"{what} must be a whole number, not {word!r}")
        return int(word)

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self.error(f"the line must end here, not go on with {self.peek()!r}")


@dataclass
class _Heading:
    """What the lines before the first stream say."""

    name: str = ""
    channels: int = -1
    width: int = 0
    ops: list[Op] = field(default_factory=list)


class _Parser:
    """Reads lines from the top down; indentation says what belongs together."""

    def __init__(self, text: str) -> None:
        self._lines = list(_split(text))
        self._next = 0
        self._heading = _Heading()
        self._names: dict[str, int] = {}

    def block(self) -> Block:
        self._read_heading()
        head = self._heading
        streams: dict[int, Stream] = {}
        asic: Stream | None = None
        while (line := self._take(0)) is not None:
            if line.peek() == "asic" and line.heading and len(line.parts) == 1:
                if asic is not None:
                    raise line.error("the asic must have one stream, not a second one")
                asic = self._stream(line, self._compute)
                continue
            channels = self._channels(line)
            stream = self._stream(line, self._item)
            for channel in channels:
                if channel in streams:
                    raise line.error(f"channel {channel} must have one stream, not a second one")
                streams[channel] = stream
        return Block(head.name, tuple(head.ops), tuple(streams.get(c, ()) for c in range(head.channels)), asic or ())

    # -- structure ------------------------------------------------------------------------------------------------

    def _take(self, depth: int) -> _Line | None:
        """The next line if it is at ``depth``; None if it is further out or there is none."""
        if self._next == len(self._lines) or self._lines[self._next].depth < depth:
            return None
        line = self._lines[self._next]
        if line.depth > depth:
            raise line.error(f"the line must be indented by {len(INDENT) * depth} spaces, not {len(INDENT) * line.depth}")
        self._next += 1
        return line

    def _read_heading(self) -> None:
        """``block``, ``channels``, ``address``, then any number of ``op``."""
        head = self._heading
        head.name = self._expect("block").name("the name of the block")
        for word in ("channels", "address"):
            line = self._expect(word)
            number = line.integer(f"the number of {'channels' if word == 'channels' else 'address entries'}")
            if not 0 <= number <= 1 << 16:
                raise line.error(f"{word} must lie in 0..{1 << 16}, not {number}")
            setattr(head, "channels" if word == "channels" else "width", number)
        while self._next < len(self._lines) and self._lines[self._next].peek() == "op":
            line = self._expect("op")
            head.ops.append(Op(name=line.name("the name of the operation"), kind=line.name("its kind")))
        count = Counter(op.name for op in head.ops)
        self._names = {op.name: number for number, op in enumerate(head.ops) if count[op.name] == 1}
        for line in self._lines[: self._next]:
            line.end()

    def _expect(self, word: str) -> _Line:
        line = self._take(0)
        if line is None:
            raise ProgramError(f"line {self._last_number() + 1}: {word!r} must follow, not the end of the text")
        if line.heading or line.word(repr(word)) != word:
            raise line.error(f"{word!r} must come here, not {line.parts[0]!r}")
        return line

    def _last_number(self) -> int:
        return self._lines[-1].number if self._lines else 0

    def _channels(self, line: _Line) -> list[int]:
        """The channels of ``channel 0-2,5:``."""
        if line.word("'channel' or 'asic'") != "channel" or not line.heading:
            raise line.error(f"'channel 0-7:' or 'asic:' must come here, not {' '.join(line.parts)!r}")
        count = self._heading.channels
        channels: list[int] = []
        text = line.word("a list of channels")
        for part in text.split(","):
            match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if not 0 <= first <= last < count:
                raise line.error(f"channels must be a list such as 0-2,5 within 0..{count - 1}, not {text!r}")
            channels += range(first, last + 1)
        line.end()
        return channels

    def _stream(self, heading: _Line, item: Callable[[_Line], Item | Compute]) -> Stream:
        steps: list[Step] = []
        while (line := self._take(1)) is not None:
            if line.heading or line.word("'step'") != "step":
                raise line.error(f"'step' must come here, not {line.parts[0]!r}")
            op = self._op(line)
            waits = self._tokens(line, "wait")
            signals = self._tokens(line, "signal")
            line.end()
            steps.append(Step(op, tuple(self._items(item, 2)), waits, signals))  # type: ignore[arg-type]
        if not steps:
            raise heading.error("a stream must have at least one step")
        return tuple(steps)

    def _op(self, line: _Line) -> int:
        text = line.peek()
        if text.startswith("#") and text[1:].isdecimal():
            line.at += 1
            number = int(text[1:])
            if number >= len(self._heading.ops):
                raise line.error(f"the operation must lie in #0..#{len(self._heading.ops) - 1}, not {text}")
            return number
        name = line.name("the name of an operation")
        if name not in self._names:
            raise line.error(f"the operation must be one of {', '.join(self._names) or '(none)'}, not {name!r}")
        return self._names[name]

    def _tokens(self, line: _Line, word: str) -> tuple[str, ...]:
        tokens: list[str] = []
        if line.peek() == word:
            line.at += 1
            tokens.append(line.name("a token"))
            while line.left and line.peek() not in WORDS:
                tokens.append(line.name("a token"))
        return tuple(tokens)

    def _items(self, item: Callable[[_Line], Item | Compute], depth: int) -> Iterator[Item | Compute]:
        while (line := self._take(depth)) is not None:
            if line.peek() == "repeat" and item == self._item:
                yield self._repeat(line, depth)
            elif line.heading:
                raise line.error("a command must not end with a colon")
            else:
                yield item(line)
                line.end()

    # -- items ----------------------------------------------------------------------------------------------------

    def _repeat(self, line: _Line, depth: int) -> Repeat:
        if not line.heading:
            raise line.error("a loop must end with a colon")
        line.at += 1
        count = line.integer("the number of passes")
        steps: dict[str, int] = {}
        while line.left:
            match = _STEP.fullmatch(line.peek())
            if match is None or match[3] or match[1] in steps:
                raise line.error(f"a loop must have row+N and sram+N at most once each, not {line.peek()!r}")
            steps[match[1]] = int(match[2])
            line.at += 1
        body = tuple(self._items(self._item, depth + 1))
        return Repeat(count, body, steps.get("row", 0), steps.get("sram", 0))  # type: ignore[arg-type]

    def _item(self, line: _Line) -> Run:
        """``COMMAND x4 sweep at *.*.1 row 3 column 0 lane 2 buffer 0 sram 128 sram+16 sram+16/channel``."""
        command = line.name("a command")
        where: Where = (-1,) * self._heading.width
        numbers: dict[str, int] = {}
        seen: set[str] = set()
        while line.left:
            word = line.word("a part of a command")
            step, count = _STEP.fullmatch(word), _COUNT.fullmatch(word)
            if step is not None and step[1] == "sram":
                key = "sram_channel" if step[3] else "sram_step"
                numbers[key] = int(step[2])
            elif count is not None:
                key = "count"
                numbers[key] = int(count[1])
            elif word == "at":
                key, where = word, self._where(line)
            elif word in ("row", "column", "lane", "buffer", "sram"):
                key = word
                numbers[key] = line.integer(f"the number of {word}")
            elif word == "sweep":
                key = word
            else:
                raise line.error(
                    "a part of a command must be xN, sweep, at, row, column, lane, buffer, sram, sram+N or sram+N/channel, "
                    f"not {word!r}"
                )
            if key in seen:
                raise line.error(f"{key} must be given once, not twice")
            seen.add(key)
        return Run(command, where, sweep="sweep" in seen, **numbers)  # type: ignore[arg-type]

    @staticmethod
    def _where(line: _Line) -> Where:
        text = line.word("an address")
        if text == '""':
            return ()
        if not _WHERE.fullmatch(text):
            raise line.error(f"an address must be numbers and * with dots between them, such as *.*.1, not {text!r}")
        return tuple(-1 if part == "*" else int(part) for part in text.split("."))

    @staticmethod
    def _compute(line: _Line) -> Compute:
        """``FUNCTION LENGTH from 0 64 into 128 using NAME``."""
        function, length = line.name("a function"), line.integer("the length")
        sources: list[int] = []
        target, parameters = -1, ""
        if line.peek() == "from":
            line.at += 1
            sources.append(line.integer("an SRAM element"))
            while line.left and line.peek() not in WORDS:
                sources.append(line.integer("an SRAM element"))
        if line.peek() == "into":
            line.at += 1
            target = line.integer("an SRAM element")
        if line.peek() == "using":
            line.at += 1
            parameters = line.name("a name of constants")
        return Compute(function, length, tuple(sources), target, parameters)


def _split(text: str) -> Iterator[_Line]:
    """Lines that say something."""
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip(" \r")
        if not content or content.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip(" "))
        if indent % len(INDENT):
            raise ProgramError(f"line {number}: the indentation must be a multiple of {len(INDENT)} spaces, not {indent}")
        heading = content.endswith(":")
        parts = _PART.findall(content.removesuffix(":"))
        if "".join(parts) != re.sub(r"\s", "", "".join(parts)) and not any(p.startswith('"') for p in parts):
            raise ProgramError(f"line {number}: the line must be words with spaces between them")
        if not parts:
            raise ProgramError(f"line {number}: a heading must say what it is, not only ':'")
        yield _Line(number, indent // len(INDENT), parts, heading)


__all__ = ["from_text", "to_text"]
