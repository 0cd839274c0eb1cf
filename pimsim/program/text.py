"""Text form of a block: one item per line, readable, and read back to exactly the same block.

::

    block projection
    op 0 linear layer0.qkv
    channels 0,1
    step op=0 waits=norm signals=qkv.out0.0  # layer0.qkv
      WR_GB @*,*,* count=48 buffer=0 sram=1600 sram_step=16
      repeat 300 row_step=1 sram_step=128
        ACT_AB @*,*,* row=0
        MAC_AB @*,*,0 row=0 column=0 count=48 buffer=0
        RD_MAC @*,*,0 sram=3200 sram_channel=16
        PREab @*,*,*
      end
    asic
    step op=0 waits=qkv.out0.0
      compute add length=4800 sources=3200 target=3200 parameters=qkv.bias

Streams of further units follow, each under ``unit NAME``: a link has ``transfer elements=768 source=0 target=0``
(``back``: into the SRAM), a
streaming unit ``kernel FUNCTION shape=12,12,64 source=0 target=768 region="..."`` with its region as JSON.

Fields at their default are left out; ``*`` in an address is "not addressed". Names with anything but letters, digits
and ``_.+-`` are JSON strings. A ``#`` begins a comment, and indentation means nothing. ``channels`` lists channels that
share the steps below it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import NoReturn

from pimsim.errors import ProgramError, did_you_mean
from pimsim.program.dataflow import region_from_json, region_to_json
from pimsim.program.isa import Block, Compute, Item, Kernel, Op, Repeat, Run, Step, Stream, Transfer, Where, Work

_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")
_WORD = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s"#])+|#.*|\S+')
_PART = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+')
_RUN_NUMBERS = tuple(f.name for f in fields(Run) if f.name not in {"command", "where", "sweep"})
_RUN_DEFAULTS = {f.name: f.default for f in fields(Run)}
_COMPUTE_NUMBERS = ("offset", "total", "group")
_COMPUTE_DEFAULTS = {f.name: f.default for f in fields(Compute)}
_TRANSFER = ("elements", "source", "target")
_KERNEL = ("shape", "source", "target", "parameters", "context", "region")
_WORK = ("compute", "transfer", "kernel")
_KEYWORDS = {"block", "op", "channels", "asic", "unit", "step", "repeat", "end", *_WORK}
_INDENT = "  "


def to_text(block: Block) -> str:
    """The text form of a block, which ends with a newline."""
    lines = [f"block {_name(block.name)}"]
    lines += [f"op {i} {_name(op.kind)} {_name(op.name)}" for i, op in enumerate(block.ops)]
    sharing: dict[int, list[int]] = {}
    for channel, stream in enumerate(block.channels):
        sharing.setdefault(id(stream), []).append(channel)
    for channels in sharing.values():
        lines.append(f"channels {','.join(map(str, channels))}")
        lines += _steps(block, block.channels[channels[0]])
    lines.append("asic")
    lines += _steps(block, block.asic)
    for name, stream in block.further:
        lines.append(f"unit {_name(name)}")
        lines += _steps(block, stream)
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Block:
    """The block that a text describes.

    Raises:
        ProgramError: a line is malformed (``line 3: ...``), or the block is not free of circular waits.
    """
    return _Reader(text).block()


# ----------------------------------------------------------------------------------------------------------- writing


def _steps(block: Block, stream: Stream) -> Iterator[str]:
    for step in stream:
        line = f"step op={step.op}"
        for key, tokens in (("waits", step.waits), ("signals", step.signals)):
            if tokens:
                line += f" {key}={','.join(map(_name, tokens))}"
        if 0 <= step.op < len(block.ops):
            line += f"  # {_name(block.ops[step.op].name)}"
        yield line
        yield from _items(step.items, _INDENT)


def _items(items: Sequence[Item | Work], indent: str) -> Iterator[str]:
    for item in items:
        if isinstance(item, Repeat):
            steps = "".join(f" {k}={v}" for k, v in (("row_step", item.row_step), ("sram_step", item.sram_step)) if v)
            yield f"{indent}repeat {item.count}{steps}"
            yield from _items(item.body, indent + _INDENT)
            yield f"{indent}end"
        elif isinstance(item, Run):
            yield indent + _run(item)
        else:
            yield indent + _work(item)


def _work(item: Work) -> str:
    if isinstance(item, Compute):
        return _compute(item)
    if isinstance(item, Transfer):
        return " ".join(["transfer", *(f"{key}={getattr(item, key)}" for key in _TRANSFER), *["back"] * item.back])
    words = ["kernel", _name(item.function), f"shape={','.join(map(str, item.shape))}"]
    words += [f"source={item.source}", f"target={item.target}"]
    words += [f"parameters={_name(item.parameters)}"] if item.parameters else []
    words += [f"context={item.context}"] if item.context else []
    return " ".join([*words, f"region={json.dumps(region_to_json(item.region))}"])


def _run(run: Run) -> str:
    command = json.dumps(run.command) if run.command in _KEYWORDS else _name(run.command)
    words = [command, "@" + ",".join("*" if i == -1 else str(i) for i in run.where)]
    words += [f"{key}={getattr(run, key)}" for key in _RUN_NUMBERS if getattr(run, key) != _RUN_DEFAULTS[key]]
    return " ".join(words + ["sweep"] * run.sweep)


def _compute(compute: Compute) -> str:
    words = ["compute", _name(compute.function), f"length={compute.length}"]
    if compute.sources:
        words.append(f"sources={','.join(map(str, compute.sources))}")
    if compute.target != -1:
        words.append(f"target={compute.target}")
    if compute.parameters:
        words.append(f"parameters={_name(compute.parameters)}")
    words += [
        f"{key}={getattr(compute, key)}" for key in _COMPUTE_NUMBERS if getattr(compute, key) != _COMPUTE_DEFAULTS[key]
    ]
    return " ".join(words)


def _name(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


# ----------------------------------------------------------------------------------------------------------- reading


class _Reader:
    """Reads a text line by line; every message names the line."""

    def __init__(self, text: str) -> None:
        self.lines: list[tuple[int, list[str]]] = []
        self.number = 0
        for number, line in enumerate(text.split("\n"), start=1):
            words = [word for word in _WORD.findall(line) if not word.startswith("#")]
            if words:
                self.lines.append((number, words))
        self.at = 0
        self.items: dict[tuple[Item | Work, ...], tuple[Item | Work, ...]] = {}

    def block(self) -> Block:
        name = self._block_name()
        ops = self._ops()
        streams: dict[int, Stream] = {}
        while self._peek() == "channels":
            channels = self._channels(streams)
            streams |= dict.fromkeys(channels, self._stream())
        words = self._next("asic")
        self._none_left(words[1:])
        asic = self._stream(works=True)
        further: dict[str, Stream] = {}
        while self._peek() == "unit":
            name_of_unit = self._unit_name(further)
            further[name_of_unit] = self._stream(works=True)
        if self.at < len(self.lines):
            self._next("(nothing)")
        stop = max(streams, default=-1) + 1
        own = tuple(streams.get(channel, ()) for channel in range(stop))
        return Block(name, ops, own, asic, further=tuple(further.items()))

    def _unit_name(self, known: dict[str, Stream]) -> str:
        words = self._next("unit")
        if len(words) != 2:
            self._fail(f"must be 'unit NAME', not {' '.join(words)!r}")
        name = self._unquoted(words[1])
        if name in known or name == "asic":
            self._fail(f"unit {name} must be listed once, not again")
        return name

    def _block_name(self) -> str:
        words = self._next("block")
        if len(words) != 2:
            self._fail(f"must be 'block NAME', not {' '.join(words)!r}")
        return self._unquoted(words[1])

    def _ops(self) -> tuple[Op, ...]:
        ops: list[Op] = []
        while self._peek() == "op":
            words = self._next("op")
            if len(words) != 4 or words[1] != str(len(ops)):
                self._fail(f"must be 'op {len(ops)} KIND NAME', not {' '.join(words)!r}")
            ops.append(Op(self._unquoted(words[2]), self._unquoted(words[3])))
        return tuple(ops)

    def _channels(self, known: dict[int, Stream]) -> list[int]:
        words = self._next("channels")
        if len(words) != 2:
            self._fail("must be 'channels NUMBER,NUMBER,...'")
        channels = [self._integer("channel", part) for part in words[1].split(",")]
        for i, channel in enumerate(channels):
            if channel < 0:
                self._fail(f"channel must be at least 0, not {channel}")
            if channel in known or channel in channels[:i]:
                self._fail(f"channel {channel} must be listed once, not again")
        return channels

    def _stream(self, *, works: bool = False) -> Stream:
        steps: list[Step] = []
        while self._peek() == "step":
            words = self._next("step")
            given = self._fields(words[1:], ("op", "waits", "signals"))
            if "op" not in given:
                self._fail("step must have op=NUMBER")
            op = self._integer("op", given["op"])
            waits, signals = self._names(given.get("waits")), self._names(given.get("signals"))
            items = self._works() if works else self._body(in_loop=False)
            steps.append(Step(op, items, waits, signals))
        return tuple(steps)

    def _body(self, *, in_loop: bool) -> tuple[Item, ...]:
        items: list[Item] = []
        while self._peek() not in {"step", "channels", "asic", "end", ""}:
            words = self._take()
            if words[0] == "repeat":
                items.append(self._repeat(words))
            elif words[0] in _KEYWORDS:
                self._fail(f"must be a command, repeat, end, step, channels or asic, not {words[0]}")
            else:
                items.append(self._run(words))
        if in_loop:
            self._none_left(self._next("end")[1:])
        return self._shared(items)

    def _works(self) -> tuple[Work, ...]:
        readers: dict[str, Callable[[list[str]], Work]] = {
            "compute": self._compute,
            "transfer": self._transfer,
            "kernel": self._kernel,
        }
        items: list[Work] = []
        while self._peek() in readers:
            words = self._take()
            items.append(readers[words[0]](words))
        if self._peek() not in {"step", "unit", ""}:
            self._next("compute or step")
        return self._shared(items)

    def _shared(self, items: list[Item] | list[Work]) -> tuple:  # type: ignore[type-arg]
        """The same object for the same items, by which the machine recognises them."""
        return self.items.setdefault(tuple(items), tuple(items))

    def _repeat(self, words: list[str]) -> Repeat:
        if len(words) < 2:
            self._fail("must be 'repeat COUNT', not 'repeat'")
        count = self._integer("count", words[1])
        given = self._integers(words[2:], ("row_step", "sram_step"))
        body = self._body(in_loop=True)
        return Repeat(count, body, **given)

    def _run(self, words: list[str]) -> Run:
        command, where = self._unquoted(words[0]), words[1] if len(words) > 1 else ""
        if not where.startswith("@"):
            self._fail(f"{command} must be followed by an address such as @*,*,0, not {where!r}")
        sweep = "sweep" in words[2:]
        given = self._integers([word for word in words[2:] if word != "sweep"], _RUN_NUMBERS)
        return Run(command, self._where(where[1:]), sweep=sweep, **given)

    def _where(self, text: str) -> Where:
        return tuple(-1 if part == "*" else self._integer("address", part) for part in text.split(",")) if text else ()

    def _compute(self, words: list[str]) -> Compute:
        if len(words) < 2:
            self._fail("must be 'compute FUNCTION length=NUMBER'")
        given = self._fields(words[2:], ("length", "sources", "target", "parameters", *_COMPUTE_NUMBERS))
        if "length" not in given:
            self._fail("compute must have length=NUMBER")
        sources = given["sources"].split(",") if "sources" in given else []
        return Compute(
            self._unquoted(words[1]),
            self._integer("length", given["length"]),
            tuple(self._integer("sources", part) for part in sources),
            self._integer("target", given.get("target", "-1")),
            self._unquoted(given["parameters"]) if "parameters" in given else "",
            **{key: self._integer(key, given[key]) for key in _COMPUTE_NUMBERS if key in given},
        )

    def _transfer(self, words: list[str]) -> Transfer:
        numbers = [word for word in words[1:] if word != "back"]
        return Transfer(**self._all_integers("transfer", numbers, _TRANSFER), back="back" in words)

    def _kernel(self, words: list[str]) -> Kernel:
        if len(words) < 2:
            self._fail("must be 'kernel FUNCTION shape=NUMBERS ...'")
        given = self._fields(words[2:], _KERNEL)
        missing = [key for key in ("shape", "source", "target", "region") if key not in given]
        if missing:
            self._fail(f"kernel must have {', '.join(missing)}")
        try:
            region = region_from_json(self._unquoted(given["region"]))
        except ProgramError as error:
            self._fail(str(error))
        return Kernel(
            self._unquoted(words[1]),
            region,
            tuple(self._integer("shape", part) for part in given["shape"].split(",")),
            self._integer("source", given["source"]),
            self._integer("target", given["target"]),
            self._unquoted(given["parameters"]) if "parameters" in given else "",
            self._integer("context", given.get("context", "0")),
        )

    def _all_integers(self, what: str, words: Iterable[str], known: tuple[str, ...]) -> dict[str, int]:
        given = self._integers(words, known)
        missing = [key for key in known if key not in given]
        if missing:
            self._fail(f"{what} must have {', '.join(missing)}")
        return given

    # -- words ----------------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self.lines[self.at][1][0] if self.at < len(self.lines) else ""

    def _take(self) -> list[str]:
        self.number, words = self.lines[self.at]
        self.at += 1
        return words

    def _next(self, expected: str) -> list[str]:
        """The next line, which must begin with a keyword."""
        if self.at == len(self.lines):
            self.number = self.lines[-1][0] + 1 if self.lines else 1
            self._fail(f"must be {expected}, not the end of the text")
        words = self._take()
        if words[0] != expected:
            self._fail(f"must be {expected}, not {words[0]}")
        return words

    def _fields(self, words: Iterable[str], known: tuple[str, ...]) -> dict[str, str]:
        given: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if key not in known:
                self._fail(f"field must be one of {', '.join(known)}, not {key!r}{did_you_mean(key, known)}")
            if not equals:
                self._fail(f"must be {key}=VALUE, not {word!r}")
            if key in given:
                self._fail(f"{key} must be given once, not again")
            given[key] = value
        return given

    def _integers(self, words: Iterable[str], known: tuple[str, ...]) -> dict[str, int]:
        return {key: self._integer(key, value) for key, value in self._fields(words, known).items()}

    def _integer(self, what: str, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]+", text):
            self._fail(f"{what} must be a whole number, not {text!r}")
        return int(text)

    def _names(self, text: str | None) -> tuple[str, ...]:
        return tuple(map(self._unquoted, _PART.findall(text))) if text is not None else ()

    def _unquoted(self, text: str) -> str:
        if _PLAIN.fullmatch(text):
            return text
        try:
            name: object = json.loads(text)
        except ValueError:
            name = None
        if not isinstance(name, str):
            self._fail(f"name must have letters, digits and _.+- only, or be a JSON string, not {text}")
        return name

    def _none_left(self, words: list[str]) -> None:
        if words:
            self._fail(f"must end here, not go on with {words[0]!r}")

    def _fail(self, message: str) -> NoReturn:
        raise ProgramError(f"line {self.number}: {message}")
