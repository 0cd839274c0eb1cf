"""Cases of the fuzzer: a command line of pimsim and the files that it finds, each of them damaged somewhere.

A maker takes a `random.Random` and gives a `Case`. Everything that it draws comes from that object, so the same maker
serves numbered cases (``scripts/fuzz.py``), hypothesis (``tests/fuzz``) and coverage-guided runs.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import typer
import yaml

from pimsim import catalog
from pimsim.cli import app
from pimsim.errors import InputError

# ------------------------------------------------------------------------------------------------------------ damage

NUMBERS = (0, 1, 2, 3, 5, 7, 31, 64, 255, 1024, 1025, 65_536, 10**6, 2**31, 2**32, 2**63, 2**64, 10**30, 10**99)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(-number for number in NUMBERS[1:]),
    *(0.5, 1.5, -0.0, 1e-300, 1e300, float("inf"), float("nan"), True, False, None),
    *("", "x", "none", "null", "bank", "channel", "open", "nREFI", "1/0", "2 ** 9", "1 GHz", "MAC_AB", "../../etc"),
    *(
        "__import__('os')",
        "nRCD",
        "nRC + nRP",
        "max(nRC, nRP)",
        "\u202e",
        "\x00",
        "[",
        "a" * 300,
        "bfloat16",
        "float32",
    ),
    *([], {}, [1], {"x": 1}, [[]], [None], {"base": "pim_gpt"}, {"base": "dram/ddr4_3200aa"}, ["ACT"], ["RD", "WR"]),
)
"""What a field is set to."""

TOKENS = (
    *(
        b"",
        b"0",
        b"-1",
        b"1e999",
        b"9" * 200,
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\n\n",
        b",",
        b",,",
        b"\t",
    ),
    *(
        b"#",
        b": ",
        b"- ",
        b"&a [*a]",
        b"*a",
        b"!!python/object:os.system",
        b"!!binary x",
        b"{",
        b"}",
        b"[",
        b"<<: ",
        b'"',
    ),
    *(
        b"'",
        b"|",
        b">",
        b"---\n",
        b"...",
        b"\xf0\x9f\x92\xa9",
        b"\\",
        b"0x",
        b"ACT",
        b"RD",
        b"PRE",
        b"AiM EOC",
        b"MAC_ABK",
    ),
    *(struct.pack("<Q", 2**63), struct.pack("<Q", 2**64 - 1), struct.pack("<I", 2**31), struct.pack("<Q", 1 << 40)),
)
"""What is put into bytes."""


def damage_bytes(random: random.Random, data: bytes) -> bytes:
    """One to eight changes of bytes."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at, more = random.randrange(len(content) + 1), random.choice((1, 2, 4, 8, 50, 400))
        match random.randrange(7):
            case 0:
                content[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                del content[at : at + more]
            case 2:
                content[at:at] = random.choice(TOKENS)
            case 3:
                content[at : at + more] = random.choice(TOKENS)
            case 4:
                content[at:at] = content[at : at + more] * random.choice((1, 2, 20))
            case 5:
                del content[at:]
            case _:
                content[at : at + 1] = bytes([(content[at] if at < len(content) else 0) ^ 1 << random.randrange(8)])
    return bytes(content)


def damage_lines(random: random.Random, data: bytes) -> bytes:
    """Lines, or words of lines, that are swapped, doubled, dropped or replaced."""
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(lines))
        match random.randrange(5):
            case 0:
                lines.insert(at, random.choice(lines))
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                lines[at] *= random.choice((2, 3, 200))
            case _:
                parts = re.split(rb"([ ,])", lines[at])
                new = random.choice((str(random.choice(NUMBERS)).encode(), random.choice(TOKENS), b"-1", b""))
                parts[random.randrange(len(parts))] = new
                lines[at] = b"".join(parts)
    return b"\n".join(lines)


def damage_tree(random: random.Random, data: Any) -> Any:
    """One to three changes of a configuration, at places of any depth."""
    tree = json.loads(json.dumps(data))
    for _ in range(random.choice((1, 1, 2, 3))):
        holders = [(holder, key) for holder, key in _places(tree) if key not in ("sources", "description")]
        if not holders:
            return _value(random)
        holder, key = random.choice(holders)
        match random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random.choice((f"{key}x", str(key).upper(), "base", "kind", "", "rows"))] = holder.pop(key)
            case 2:
                holder[key] = [holder[key]]
            case 3 if isinstance(holder, list):
                holder.append(holder[key])
            case 4:
                holder[key] = random.choice(holders)[0]
                tree = json.loads(json.dumps(tree, check_circular=False)) if not _is_cyclic(tree) else {}
            case _:
                holder[key] = _value(random)
    return tree


def _value(random: random.Random) -> Any:
    return deepcopy(random.choice(VALUES))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in list(pairs):
        yield tree, key
        yield from _places(inner)


def _is_cyclic(tree: Any, above: tuple[int, ...] = ()) -> bool:
    if not isinstance(tree, dict | list):
        return False
    inner = tree.values() if isinstance(tree, dict) else tree
    return id(tree) in above or any(_is_cyclic(each, (*above, id(tree))) for each in inner)


def damage_text(random: random.Random, text: bytes) -> bytes:
    """A text file, changed by bytes or by lines."""
    return random.choice((damage_bytes, damage_lines))(random, text)


def damage_yaml(random: random.Random, text: bytes) -> bytes:
    """A YAML file, changed as text or as a tree; a tree is written with everything that it inherits left as it is."""
    if random.random() < 0.3:
        return damage_text(random, text)
    return _as_yaml(damage_tree(random, _parsed(text)))


def _as_yaml(tree: Any) -> bytes:
    return re.sub(r"\bNaN\b", ".nan", re.sub(r"\b(-?)Infinity\b", r"\1.inf", json.dumps(tree))).encode()


@cache
def _parsed(text: bytes) -> Any:
    return yaml.safe_load(text)


# ------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A command line and the files that lie in its working folder."""

    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    copies: str = ""
    """A folder to be copied there first; ``files`` then change it."""


Maker = Callable[[random.Random], Case]

TINY = tuple(
    part
    for option in ("generate_tokens=1", "model.layers=1", "model.d_model=128", "model.heads=4", "model.d_ff=256")
    for part in ("--set", f"workload.{option}")
)
"""The smallest decoder that uses every kind of command."""

SMALL = ("--set", "workload.generate_tokens=1", "--set", "workload.prompt_tokens=1", "--set", "workload.model.layers=1")


@cache
def shipped(kind: str) -> dict[str, bytes]:
    """Name -> text of every shipped file of a kind."""
    return {name: catalog.find(kind, name).read_bytes() for name in catalog.names(kind)}


def _workload_for(kind: str) -> tuple[str, ...]:
    if kind == "aim":
        return ("--workload", "short.trace")
    if kind == "fpga":
        return ("--workload", "attention_reordered", "--set", "workload.tokens=9")
    return ("--workload", "gpt2_decode", *TINY)


def make_arch(random: random.Random) -> Case:
    """An architecture file, shown or run."""
    name, text = random.choice(sorted(shipped("arch").items()))
    files = {"a.yaml": damage_yaml(random, text), "short.trace": ISR}
    if random.random() < 0.6:
        return Case(("show", "--arch", "a.yaml"), files)
    kind = "aim" if name.startswith("aim") else "fpga" if "moe" in name else "pim"
    return Case(("run", "--quiet", "--arch", "a.yaml", *_workload_for(kind)), files)


def make_override(random: random.Random) -> Case:
    """``--set`` with any path and value."""
    name = random.choice(("pim_gpt", "aim_gddr6", "edge_moe_zcu102"))
    sets = []
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _value(random)
        path = (
            random.choice(_paths(name)) if random.random() < 0.9 else random.choice(("", "arch.", "workload.x", "x.y"))
        )
        sets += ["--set", f"{path}={value if isinstance(value, str) else _as_yaml(value).decode()}"]
    kind = {"pim_gpt": "pim", "aim_gddr6": "aim", "edge_moe_zcu102": "fpga"}[name]
    if random.random() < 0.5:
        return Case(("show", "--arch", name, *sets))
    return Case(("run", "--quiet", "--arch", name, *_workload_for(kind), *sets), {"short.trace": ISR})


@cache
def _paths(name: str) -> tuple[str, ...]:
    """Dotted paths of a resolved architecture."""
    from pimsim.config import load_arch

    def walk(tree: Any, path: str) -> Iterator[str]:
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for key, inner in pairs:
            if key not in ("sources", "description"):
                yield f"{path}.{key}"
                yield from walk(inner, f"{path}.{key}")

    return tuple(walk(load_arch(name).tree.data, "arch"))


def make_workload(random: random.Random) -> Case:
    """A workload file, shown or run."""
    _, text = random.choice(sorted(shipped("workload").items()))
    files = {"w.yaml": damage_yaml(random, text)}
    if random.random() < 0.75:
        return Case(("show", "--workload", "w.yaml"), files)
    kind = str((_parsed(text) or {}).get("kind", "decoder"))
    if kind == "attention":
        return Case(("run", "--quiet", "--arch", "edge_moe_zcu102", "--workload", "w.yaml"), files)
    if kind == "encoder":
        few = ("--set", "workload.layers=1")
        return Case(("run", "--quiet", "--arch", "edge_moe_zcu102", "--workload", "w.yaml", *few), files)
    return Case(("run", "--quiet", "--arch", "pim_gpt", "--workload", "w.yaml", *SMALL), files)


COMMANDS = b"""cycle,command,channel,pseudochannel,rank,bankgroup,bank,row,column
1,ACT,0,-1,0,1,2,7,-1
33,RD,0,-1,0,1,2,7,5
41,RD,0,-1,0,1,2,7,6
90,PREpb,0,-1,0,1,2,-1,-1
131,ACT,0,-1,0,0,1,9,-1
164,WR,0,-1,0,0,1,9,3
250,PREab,0,-1,0,-1,-1,-1,-1
300,REFab,0,-1,0,-1,-1,-1,-1
"""
STACKED = COMMANDS.replace(b",0,-1,0,", b",0,0,0,")
TWO_STEPS = (
    STACKED.replace(b"1,ACT,0,0,0,1,2,7,-1", b"1,ACT1,0,-1,0,1,2,7,-1\n5,ACT2,0,-1,0,1,2,7,-1")
    .replace(b"131,ACT,0,0,0,0,1,9,-1", b"131,ACT1,0,-1,0,0,1,9,-1\n135,ACT2,0,-1,0,0,1,9,-1")
    .replace(b"33,RD,", b"30,CAS_RD,0,-1,0,1,2,-1,-1\n33,RD,")
    .replace(b"164,WR,", b"160,CAS_WR,0,-1,0,0,1,-1,-1\n164,WR,")
    .replace(b",0,0,0,", b",0,-1,0,")
)
ALL_BANK = b"""cycle,command,channel,bankgroup,bank,row,column,accumulator
1,WR_GB,0,-1,-1,-1,0,-1
2,ACT_AB,0,-1,-1,5,-1,-1
60,MAC_AB,0,-1,-1,5,0,0
68,MAC_AB,0,-1,-1,5,1,0
199,RD_MAC,0,-1,-1,-1,-1,0
240,PREab,0,-1,-1,-1,-1,-1
"""
SOUND_TRACES = {
    "ddr4_3200aa": COMMANDS,
    "hbm2_2000": STACKED,
    "lpddr5_6400": TWO_STEPS,
    "pim_gpt_gddr6": ALL_BANK,
}
"""Standard -> a trace that it takes."""


def make_dram(random: random.Random) -> Case:
    """A DRAM standard under a trace, which is sound for some of them."""
    name, text = random.choice(sorted(shipped("dram").items()))
    command = random.choice(("replay", "verify-trace", "trace-energy"))
    trace = SOUND_TRACES.get(name) or random.choice(list(SOUND_TRACES.values()))
    return Case(
        (command, "--dram", "d.yaml", "--trace", "t.csv"), {"d.yaml": damage_yaml(random, text), "t.csv": trace}
    )


def make_commands(random: random.Random) -> Case:
    """A command trace on a sound standard."""
    command = random.choice(("replay", "replay", "verify-trace", "trace-energy"))
    dram, text = random.choice(sorted(SOUND_TRACES.items()))
    return Case((command, "--dram", dram, "--trace", "t.csv"), {"t.csv": damage_text(random, text)})


ISR = b"""# sixteen columns of two rows, then a plain read
AiM WR_GB 16 0 0xC0000000
AiM WR_BIAS 0 0xC0000000
AiM MAC_ABK 16 0xC0000000 0
AiM MAC_ABK 16 0xC0000000 1
AiM RD_MAC 16 0xC0000000
AiM SYNC
W CFR 2 1
AiM AF 0x80000000
AiM RD_AF 0 0x80000000
W MEM 0 3 1
R MEM 0 3 1
AiM COPY_BKGB 4 0x80000000 2 7
AiM EWMUL 4 0x80000000 7
AiM EOC
"""


def make_isr(random: random.Random) -> Case:
    """A trace of AiM instructions."""
    arch = random.choice(("aim_gddr6", "aim_gddr6_proper"))
    return Case(("run", "--quiet", "--arch", arch, "--workload", "t.trace"), {"t.trace": damage_text(random, ISR)})


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> bytes:
    """A GGUF file with float32 tensors of zeros; a number is written as uint32 or float32, a list as texts."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _text(key)
        if isinstance(value, str):
            head += struct.pack("<I", 8) + _text(value)
        elif isinstance(value, list):
            head += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        else:
            head += struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    size = 0
    for name, shape in tensors.items():
        head += (
            _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) + struct.pack("<IQ", 0, size)
        )
        count = 1
        for axis in shape:
            count *= axis
        size += -(-4 * count // 32) * 32
    return head + bytes(-len(head) % 32) + bytes(size)


@cache
def sound_gguf() -> bytes:
    """The smallest Llama with weights and a vocabulary."""
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": 1,
        "llama.embedding_length": 16,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.feed_forward_length": 16,
        "llama.context_length": 8,
        "llama.vocab_size": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*"abcdef", "ab", "h"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 7,
    }
    block = {"attn_norm": (16,), "ffn_norm": (16,), "attn_q": (16, 16), "attn_k": (8, 16), "attn_v": (8, 16)}
    block |= {"attn_output": (16, 16), "ffn_gate": (16, 16), "ffn_up": (16, 16), "ffn_down": (16, 16)}
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (8, 16), "output_norm.weight": (16,)}
    return gguf(metadata, tensors | {f"blk.0.{name}.weight": shape for name, shape in block.items()})


def make_gguf(random: random.Random) -> Case:
    """The header of a GGUF file, imported or run."""
    data = sound_gguf()
    header = 1200
    changed = damage_bytes(random, data[:header]) + data[header:]
    roll = random.random()
    if roll < 0.9:
        return Case(("show", "--workload", "m.gguf"), {"m.gguf": changed})
    if roll < 0.95:
        return Case(("run", "--quiet", "--arch", "pim_gpt", "--workload", "m.gguf", *SMALL), {"m.gguf": changed})
    words = ("generate", "--quiet", "--arch", "pim_gpt", "--model", "m.gguf", "--prompt", "ab", "--tokens", "1")
    return Case(words, {"m.gguf": changed})


HF = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "vocab_size": 40,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "linear", "factor": 4.0},
}


def make_hf(random: random.Random) -> Case:
    """A config.json of a model."""
    if random.random() < 0.3:
        changed = damage_bytes(random, json.dumps(HF).encode())
    else:
        changed = json.dumps(damage_tree(random, HF)).encode()
    return Case(("show", "--workload", "config.json"), {"config.json": changed})


SWEEP = b"""name: tiny
arch: pim_gpt
workload: gpt2_decode
set: {workload.generate_tokens: 1, workload.model.layers: 1, workload.model.d_model: 128, workload.model.heads: 4}
axes:
  arch.dram.channels: [1, 2]
  workload.model.d_ff: [64, 128]
zip:
  - arch.pim.multipliers: [8, 16]
    arch.dram.burst_bytes: [16, 32]
    arch.dram.columns: [128, 64]
derived: {arch.asic.clock_mhz: 100 * arch.dram.channels}
constraints: [arch.dram.channels * workload.model.d_ff <= 256]
objectives:
  latency: {value: seconds}
  capacity: {value: arch.dram.channels * arch.dram.rows, goal: maximize}
random: {samples: 2, axes: {arch.asic.adder_latency: {low: 1, high: 3}}}
seed: 3
"""


def make_sweep(random: random.Random) -> Case:
    """A sweep file, counted, or run in the folder that its name asks for."""
    if random.random() < 0.15:
        return Case(("sweep", "s.yaml", "--quiet", "--workers", "1"), {"s.yaml": damage_yaml(random, SMALL_SWEEP)})
    return Case(("sweep", "s.yaml", "--dry-run", "--quiet"), {"s.yaml": damage_yaml(random, SWEEP)})


SMALL_SWEEP = b"""name: tiny
arch: pim_gpt
workload: gpt2_decode
set: {workload.generate_tokens: 1, workload.model.layers: 1, workload.model.d_model: 128, workload.model.heads: 4}
axes: {arch.dram.channels: [1, 2], workload.model.d_ff: [64]}
objectives: {latency: {value: seconds}}
"""

PREPARED: dict[str, Path] = {}
"""Sound folders that are damaged: ``store`` of a sweep, ``run`` of a run."""


def prepare(folder: Path) -> None:
    """Make the folders of `PREPARED`."""
    (folder / "s.yaml").write_bytes(SMALL_SWEEP)
    run, store = folder / "run", folder / "store"
    with _inside(folder):
        for words in (
            ("sweep", "s.yaml", "--out", "store", "--workers", "1", "--quiet"),
            ("run", "--arch", "pim_gpt", "--workload", "gpt2_decode", *TINY, "--out", "run", "--quiet"),
        ):
            outcome = execute(words)
            if outcome.code:
                raise InputError(f"{' '.join(words)} must succeed; it said {outcome.stderr}")
    PREPARED.update(run=run, store=store)


def _checksummed(line: bytes) -> bytes:
    """A record whose checksum is right whatever it holds, as a malicious store has it."""
    body = line.partition(b" ")[2]
    return b"%08x %s" % (zlib.crc32(body), body)


def make_store(random: random.Random) -> Case:
    """The folder of a sweep, gone on with or reported."""
    folder = PREPARED["store"]
    name = random.choice(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    content = (folder / name).read_bytes()
    if name.endswith(".log") and random.random() < 0.7:
        lines = [line for line in content.split(b"\n") if line]
        at = random.randrange(len(lines))
        head, _, body = lines[at].partition(b" ")
        changed = json.dumps(damage_tree(random, json.loads(body))).encode()
        lines[at] = _checksummed(head + b" " + changed)
        content = b"\n".join([*lines, b""])
    elif name == "sweep.json" and random.random() < 0.7:
        content = json.dumps(damage_tree(random, json.loads(content))).encode()
    else:
        content = damage_bytes(random, content)
    if random.random() < 0.5:
        arguments: tuple[str, ...] = ("report", "store", "--html", "page.html")
    else:
        arguments = ("sweep", "s.yaml", "--out", "store", "--workers", "1", "--resume", "--quiet")
    return Case(arguments, {"s.yaml": SMALL_SWEEP, f"store/{name}": content}, "store")


def make_run_folder(random: random.Random) -> Case:
    """The folder of a run, reported."""
    folder = PREPARED["run"]
    name = random.choice(sorted(path.name for path in folder.iterdir()))
    content = (folder / name).read_bytes()
    if name.endswith(".json") and random.random() < 0.7:
        content = json.dumps(damage_tree(random, json.loads(content))).encode()
    else:
        content = damage_bytes(random, content)
    return Case(("report", "run", "--html", "page.html"), {f"run/{name}": content}, "run")


def make_baseline(random: random.Random) -> Case:
    """A baseline file beside a tiny run."""
    _, text = random.choice(sorted(shipped("baseline").items()))
    run = ("run", "--quiet", "--arch", "pim_gpt", "--workload", "gpt2_decode", *TINY)
    return Case((*run, "--baseline", "b.yaml"), {"b.yaml": damage_yaml(random, text)})


DECISIONS = {
    "schema": "pimsim.decisions/1",
    "algorithm": "topk",
    "parameters": {"k": 2},
    "case": {"queries": 1, "keys": 4, "d_head": 2},
    "origin": "functional: given tensors",
    "decisions": {"top_k.1": [[[1, 2]]]},
}
LOAD_DECISIONS = "load-decisions"
"""Stands for reading a file of recorded decisions, which no command does by itself."""


def make_decisions(random: random.Random) -> Case:
    """A file of recorded decisions."""
    text = json.dumps(DECISIONS).encode()
    changed = (
        damage_bytes(random, text) if random.random() < 0.3 else json.dumps(damage_tree(random, DECISIONS)).encode()
    )
    return Case((LOAD_DECISIONS, "d.json"), {"d.json": changed})


MAKERS: dict[str, tuple[int, Maker]] = {
    "arch": (20, make_arch),
    "override": (12, make_override),
    "workload": (16, make_workload),
    "dram": (12, make_dram),
    "commands": (14, make_commands),
    "isr": (8, make_isr),
    "gguf": (18, make_gguf),
    "hf": (5, make_hf),
    "sweep": (6, make_sweep),
    "store": (4, make_store),
    "run_folder": (3, make_run_folder),
    "baseline": (3, make_baseline),
    "decisions": (5, make_decisions),
}
"""Kind of input -> (weight, maker)."""


def make(random: random.Random) -> tuple[str, Case]:
    """A case of any kind."""
    names = list(MAKERS)
    (name,) = random.choices(names, [MAKERS[each][0] for each in names])
    return name, MAKERS[name][1](random)


# --------------------------------------------------------------------------------------------------------- execution

SECONDS = 20
"""Processor time of one case; most take a hundredth of a second."""


class TooLateError(BaseException):
    """A case did not end in time."""


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    stdout: str
    stderr: str
    touched: tuple[str, ...] = ()
    """What it did that it must not do: files written elsewhere, connections, other programs."""

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if it is a result or a clean error."""
        if self.touched:
            return f"must leave the rest of the computer alone: {self.touched[0]}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        error = re.fullmatch(r"(?:(?!error: )[^\n]*\n)*error: [^\n]+\n", self.stderr)
        if "fault of pimsim" in self.stderr or "Traceback" in self.stderr:
            return f"traceback: {self.stderr.strip().splitlines()[-2]}"
        if "must fit into the memory" in self.stderr:
            return "memory"
        if self.code == 2 and (self.stdout or not error):
            return f"exit code 2 with {self.stdout[:80]!r} and {self.stderr[:200]!r}"
        return "exit code 0 with an error" if self.code == 0 and "error: " in self.stderr else ""


_PROGRAM: Any = typer.main.get_command(app)
_GUARD: list[tuple[Path, list[str]]] = []
"""The folder that may be written, and what was done elsewhere, while a case runs."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _GUARD:
        return
    folder, touched = _GUARD[-1]
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, flags = Path(os.fsdecode(arguments[0])), arguments[2]
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        inside = (Path.cwd() / path).resolve().is_relative_to(folder)
        if writes and not inside and not str(path).startswith(("/dev/", "/proc/")) and "__pycache__" not in str(path):
            touched.append(f"open {path} to write")
    elif event.startswith(
        ("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.", "os.exec", "os.system")
    ) or (event == "subprocess.Popen" and not str(arguments[1]).startswith("['git'")):
        touched.append(f"{event} {arguments!r:.100}")


sys.addaudithook(_audit)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def execute(arguments: tuple[str, ...]) -> Outcome:
    """Run a command line in this process and in the working folder."""
    out, err = io.StringIO(), io.StringIO()
    touched: list[str] = []
    _GUARD.append((Path.cwd().resolve(), touched))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            if arguments[0] == LOAD_DECISIONS:
                code = _load_decisions(Path(arguments[1]))
            else:
                code = _PROGRAM.main(list(arguments), standalone_mode=False)
    finally:
        _GUARD.pop()
    return Outcome(code, out.getvalue(), err.getvalue(), tuple(touched))


FEW_PAIRS = 200_000
"""Pairs of a case that is expanded; a file may name any, but a workload of more must be meant."""


def _load_decisions(file: Path) -> int:
    from pimsim.cli import guarded
    from pimsim.commands.output import write_out
    from pimsim.workload.attention.decisions import check_range, load

    def read() -> None:
        recorded = load(file)
        if (
            recorded.case.heads * recorded.case.queries * recorded.case.keys <= FEW_PAIRS
        ):  # as a workload's check has it
            check_range(file, recorded)
        write_out(recorded.origin + "\n")

    return guarded(read)


def run_case(case: Case, folder: Path, seconds: float = SECONDS) -> Outcome:
    """Lay the files of a case into an empty folder and run it there.

    Raises:
        TooLateError: it takes more than ``seconds`` of processor time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.copies:
        shutil.copytree(PREPARED[case.copies], folder / case.copies)
    for name, content in case.files.items():
        (folder / name).write_bytes(content)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLateError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with _inside(folder):
            return execute(case.arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
