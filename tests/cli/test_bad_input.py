"""Malformed and impossible input: exit code 2, nothing on standard output, and one line that says what must hold."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_tools import RUN, TINY, pimsim

from pimsim import catalog

PLACE = r":\d+:\d+: "
MACHINE = re.escape(str(catalog.find("arch", "pim_gpt"))) + PLACE
DRAM = re.escape(str(catalog.find("dram", "pim_gpt_gddr6"))) + PLACE
DDR4 = re.escape(str(catalog.find("dram", "ddr4_3200aa"))) + PLACE
"""Where values of the shipped files stand."""

WORKLOAD = """\
name: tiny
model: {layers: 1, d_model: 128, heads: 4, d_ff: 256, vocabulary: 100, context: 64}
generate_tokens: 1
"""
ARCH = "base: pim_gpt\nname: mine\n"
TRACE = "cycle,command,channel,bankgroup,bank,row,column\n"
VERIFY = ("verify-trace", "--dram", "pim_gpt_gddr6", "--trace", "t.csv")
REPLAY = ("replay", "--dram", "pim_gpt_gddr6", "--trace", "t.csv")
WITH_ARCH = ("run", "--arch", "a.yaml", "--workload", "gpt2_decode", *TINY)
WITH_WORKLOAD = ("run", "--arch", "pim_gpt", "--workload", "w.yaml")


class Case(NamedTuple):
    """A command line, the files that it finds, and the message from its first character."""

    message: str
    arguments: tuple[str, ...]
    files: dict[str, str | bytes]


def given(message: str, *arguments: str, **files: str | bytes) -> Case:
    """Files are named by their stem: ``a`` is a.yaml, ``w`` is w.yaml, ``t`` is t.csv, others as they are."""
    suffix = {"a": "a.yaml", "w": "w.yaml", "b": "b.yaml", "d": "d.yaml", "t": "t.csv"}
    return Case(message, arguments, {suffix.get(name, name): text for name, text in files.items()})


def override(message: str, *options: str) -> Case:
    """A small run with overrides; the message follows ``--set OPTION: `` of the last one."""
    sets = [part for option in options for part in ("--set", option)]
    return given(re.escape(f"--set {options[-1]}: ") + message, *RUN, *TINY, *sets)


def deep(message: str, *options: str) -> Case:
    """A small run with overrides; the message is not about the last option itself."""
    sets = [part for option in options for part in ("--set", option)]
    return given(message, *RUN, *TINY, *sets)


def arch(message: str, text: str | bytes) -> Case:
    """A run with an architecture file."""
    return given(message, *WITH_ARCH, a=text)


def workload(message: str, text: str | bytes) -> Case:
    """A run with a workload file."""
    return given(message, *WITH_WORKLOAD, w=text)


def verify(message: str, text: str | bytes) -> Case:
    """The verification of a trace file."""
    return given(message, *VERIFY, t=text)


def bomb() -> str:
    """Nine levels of nine aliases each."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines) + "\n"


COMMAND_LINES = [
    given(r"command must be one of .*, not 'rnu'; did you mean 'run'\?$", "rnu"),
    given(r"command must be one of .*, not 'sweepp'", "sweepp"),
    given(r"No such option: --xyzzy \(see pimsim run --help\)$", *RUN, "--xyzzy"),
    given(r"No such option: --arhc; did you mean .*--arch.*\? \(see pimsim run --help\)$", "run", "--arhc", "pim_gpt"),
    given(r"No such option: --verbose", "--verbose"),
    given(r"Missing option '--workload' \(see pimsim run --help\)$", "run", "--arch", "pim_gpt"),
    given(r"Missing argument 'KIND'", "list"),
    given(r"Option '--arch' requires an argument", "run", "--arch"),
    given(r"Got unexpected extra argument", "list", "archs", "dram"),
    given(r"Invalid value for '--trace-limit': ", *RUN, "--trace-limit", "many"),
    given(r"Invalid value for '--trace-limit': ", *RUN, "--trace-limit", "0"),
    given(r"arch must be one of aim_gddr6.*, not 'pim_gtp'; did you mean 'pim_gpt'\?$", "show", "--arch", "pim_gtp"),
    given(r"arch must be one of .*, not ''", "show", "--arch", ""),
    given(r"workload must be one of .*, not 'gpt2'", "run", "--arch", "pim_gpt", "--workload", "gpt2"),
    given(r"arch must be one of .*, not 'none\.yaml'", "show", "--arch", "none.yaml"),
    given(r"dram must be one of .*, not 'ddr9'", "replay", "--dram", "ddr9", "--trace", "t.csv", t=TRACE),
    given(
        r"baseline must be one of a100, .*, xeon_6154, xeon_6226r, not 'a10'; did you mean 'a100'\?$",
        *RUN,
        "--baseline",
        "a10",
    ),
    given(r"engine must be one of fast, reference, not 'turbo'$", *RUN, "--engine", "turbo"),
    given(r"format must be one of json, table, not 'xml'$", *RUN, "--format", "xml"),
    given(r"format must be one of json, table, not 'yaml'$", "list", "archs", "--format", "yaml"),
    given(r"format must be one of json, yaml, not 'table'$", "show", "--arch", "pim_gpt", "--format", "table"),
    given(r"format must be one of json, markdown, table, not 'csv'$", "validate", "--format", "csv"),
    given(r"kind must be one of archs, .*, not 'arch'; did you mean 'archs'\?$", "list", "arch"),
    given(r"schema must be one of arch, dram, sweep, workload, not 'sweeps'.*", "schema", "sweeps"),
    given(r"exactly one of --arch and --workload must be given, not neither$", "show"),
    given(r"exactly one of --arch and --workload must be given, not both$", "show", *RUN[1:]),
    given(r"exactly one of --dram and --arch must be given, not neither$", "verify-trace", "--trace", "t.csv"),
    given(r"exactly one of --dram and --arch must be given, not both$", *VERIFY, "--arch", "pim_gpt"),
    given(r"exactly one of --dram and --arch must be given, not both$", *REPLAY, "--arch", "pim_gpt"),
    given(r"out: must be a folder, not a file$", *RUN, *TINY, "--out", "out", out=""),
    given(r"f/deep: must be a folder that can be written \(Not a directory\)$", *RUN, *TINY, "--out", "f/deep", f=""),
    given(r"\.: must be a file, not a folder$", *RUN, *TINY, "--trace", "."),
    given(r"no/t\.csv: must be writable \(No such file or directory\)$", *RUN, *TINY, "--trace", "no/t.csv"),
    given(r"no/u\.csv: must be writable \(No such file or directory\)$", *REPLAY, "--out", "no/u.csv", t=TRACE),
    given(r"folder: must be a file, not a folder$", "show", "--arch", "folder"),
]

OVERRIDES = [
    override(r"must be path=value, such as arch\.dram\.channels=16$", "arch.dram.channels"),
    override(r"must be path=value", ""),
    override(r"the path must start with arch\. or workload\., not 'rach'; did you mean 'arch'\?$", "rach.dram=1"),
    override(r"the path must start with arch\. or workload\., not ''$", "=1"),
    override(r"the path must name a field, such as arch\.dram\.channels=16$", "arch=1"),
    override(r"unknown key 'chanels'; did you mean 'channels'\?", "arch.dram.chanels=16"),
    override(r"unknown key 'tokens'", "workload.tokens=16"),
    override(r"'dram\.channels' must be a mapping or a list to have 'x'", "arch.dram.channels.x=1"),
    override(r"the index in 'dram\.rules' must be from 0 to ", "arch.dram.rules.99.min=1"),
    override(r"dram\.channels: must be a whole number, not 'many'$", "arch.dram.channels=many"),
    override(r"dram\.channels: must be a whole number, not null$", "arch.dram.channels="),
    override(r"dram\.channels: must be greater than 0, not 0$", "arch.dram.channels=0"),
    override(r"dram\.channels: must lie in 1\.\.1,024, not 1,025$", "arch.dram.channels=1025"),
    override(r"dram\.channels: must be a whole number, not 1e\+30", "arch.dram.channels=1e30"),
    override(r"dram\.levels\.bank: must be greater than 0, not 0$", "arch.dram.levels.bank=0"),
    override(r"dram\.levels: must name at least one level, such as \{bank: 16\}$", "arch.dram.levels={}"),
    override(r"dram\.levels: banks of a channel must lie in 1\.\.1,024, not 2,000$", "arch.dram.levels={bank: 2000}"),
    override(
        r"dram\.register_files\.row: must not be called 'row', which is a column of ", "arch.dram.register_files.row=4"
    ),
    override(r"dram\.register_files\.a b: must have a name of letters", "arch.dram.register_files.a b=4"),
    override(r"dram\.levels\.channel: must not hold channel", "arch.dram.levels={channel: 8}"),
    override(r"dram\.rows: must be a whole number, not 16384\.5$", "arch.dram.rows=16384.5"),
    override(r"dram\.rows: must lie in 1\.\.4,294,967,296, not 1e\+20$", f"arch.dram.rows={10**20}"),
    override(r"dram\.tck_ps: must be finite, not \.inf$", "arch.dram.tck_ps=.inf"),
    override(r"dram\.tck_ps: must be greater than 0, not -1$", "arch.dram.tck_ps=-1"),
    override(r"dram\.tck_ps: must lie in 10\.\.1,000,000, not 2e\+06$", "arch.dram.tck_ps=2e6"),
    override(r"dram\.timing\.nRCD: must be a whole number of clocks >= 0, not -1 ", "arch.dram.timing.nRCD=-1"),
    override(r"dram\.timing\.nRCD: must be a whole number of clocks >= 0, not 1\.5 ", "arch.dram.timing.nRCD=1.5"),
    override(r"dram\.timing\.nRCD: a value must be finite, not nan$", "arch.dram.timing.nRCD=.nan"),
    override(r"dram\.timing\.nRCD: a divisor must not be zero$", "arch.dram.timing.nRCD=1/0"),
    override(
        r"dram\.timing\.nRCD: a name must be one of .*, not 'nCLL'; did you mean", "arch.dram.timing.nRCD=nCLL + 1"
    ),
    override(
        r"dram\.timing\.nRCD: a function must be one of .*, not '__import__'", "arch.dram.timing.nRCD=__import__('os')"
    ),
    override(r"dram\.timing\.nRCD: must not depend on itself: ", "arch.dram.timing.nRCD=nRCD + 1"),
    override(r"dram\.timing\.nRCD: an expression must be arithmetic such as ", "arch.dram.timing.nRCD=2 +"),
    override(r"dram\.timing\.nRCD: an expression must be made of numbers", "arch.dram.timing.nRCD=2 ** 9"),
    override(r"dram\.timing\.rows: must not be called 'rows', which is a field of dram$", "arch.dram.timing.rows=1"),
    deep(DRAM + r"dram\.rules: ticks of the rule ACT -> ACT \(nRC\) must lie in", "arch.dram.timing.nRC=2e6"),
    override(
        r"dram\.commands\.RD\.latency: ticks must lie in 0\.\.1,000,000, not 1e\+30$",
        "arch.dram.commands.RD.latency=1e30",
    ),
    override(
        r"dram\.commands\.RD\.ticks: must lie in 1\.\.1,000,000, not 1,000,001$", "arch.dram.commands.RD.ticks=1000001"
    ),
    override(
        r"dram\.commands\.RD\.scope: scope must be one of bank, bankgroup, channel, not 'banks'; did",
        "arch.dram.commands.RD.scope=banks",
    ),
    override(r"dram\.commands\.MAC_AB\.scope: must be channel, not 'bank'$", "arch.dram.commands.MAC_AB.scope=bank"),
    override(r"dram\.commands\.ACT\.effect: must be open, not 'none'$", "arch.dram.commands.ACT.effect=none"),
    override(
        r"dram\.commands\.RD\.effect: must be one of none, open, close, not 'shut'", "arch.dram.commands.RD.effect=shut"
    ),
    override(r"dram\.commands: must have at least 1 entries, not 0$", "arch.dram.commands={}"),
    override(r"dram\.rules\.0\.min: a name must be one of .*, not 'nXX'", "arch.dram.rules.0.min=nXX"),
    override(r"dram\.rules\.0\.level: level must be one of .*, not 'plane'", "arch.dram.rules.0.level=plane"),
    override(
        r"dram\.rules\.0\.prev\.?: command must be one of .*, not 'ACTT'; did you mean 'ACT'\?$",
        "arch.dram.rules.0.prev=[ACTT]",
    ),
    override(r"dram\.rules\.0\.window: must lie in 1\.\.1,024, not 1e\+18$", f"arch.dram.rules.0.window={10**18}"),
    deep(
        DRAM + r"dram\.refresh\.interval: must be longer than 563 ticks, .*; not 563 \(nREFI\)$",
        "arch.dram.timing.nREFI=563",
    ),
    override(r"dram\.refresh\.interval: must be a time > 0, not 0$", "arch.dram.refresh.interval=0"),
    override(r"dram\.refresh\.interval: ticks must lie in ", "arch.dram.refresh.interval=1e13"),
    override(
        r"dram\.refresh\.policy: must be one of all_bank, none, not 'per_bank'", "arch.dram.refresh.policy=per_bank"
    ),
    deep(
        DRAM + r"dram\.refresh\.policy: must be none where no command has refresh: true$",
        "arch.dram.commands.REFab.refresh=false",
    ),
    deep(
        DRAM + r"dram\.refresh\.policy: must be none, or the DRAM must have a command with effect: close, ",
        "arch.dram.commands.REFab.scope=bank",
        "arch.dram.commands.PREpb.needs=open",
    ),
    deep(
        r"--set arch\.pim\.multipliers=16: pim\.multipliers: must be dram\.burst_bytes / bytes of a float32 = ",
        "arch.pim.format=float32",
        "arch.pim.multipliers=16",
    ),
    override(
        r"pim\.multipliers: must be dram\.burst_bytes / bytes of a bfloat16 = 32 / 2 = 16, ", "arch.pim.multipliers=8"
    ),
    override(
        r"pim\.accumulators: must be dram\.register_files\.accumulator, which is 4, not 3$", "arch.pim.accumulators=3"
    ),
    override(
        r"pim\.global_buffer_bytes: must be a multiple of dram\.burst_bytes, which is 32, not 100$",
        "arch.pim.global_buffer_bytes=100",
    ),
    override(
        r"pim\.format: must be one of bfloat16, .*, not 'bfloat'; did you mean 'bfloat16'\?$", "arch.pim.format=bfloat"
    ),
    override(r"asic\.clock_mhz: must be a number without a unit .*, not '1 GHz'$", "arch.asic.clock_mhz=1 GHz"),
    override(r"asic\.clock_mhz: must be finite, not \.nan$", "arch.asic.clock_mhz=.nan"),
    override(r"asic\.clock_mhz: must lie in 1\.\.100,000, not 0\.001$", "arch.asic.clock_mhz=0.001"),
    override(r"asic\.clock_mhz: must lie in 1\.\.100,000, not 1e\+09$", "arch.asic.clock_mhz=1e9"),
    override(r"asic\.adder_latency: must lie in 1\.\.1,000, not 1,001$", "arch.asic.adder_latency=1001"),
    override(
        r"asic\.functions\.exp_taylor_terms: must lie in 1\.\.1,000, not 1e\+30$",
        f"arch.asic.functions.exp_taylor_terms={10**30}",
    ),
    override(r"dispatch: must be one of overlap, serial, not 'parallel'", "arch.dispatch=parallel"),
    override(r"a whole number must have at most 100 digits$", f"arch.dram.rows={'9' * 101}"),
    override(r"must be valid YAML: ", "arch.dram.channels=[1"),
    override(
        r"base: must name a file beside the working directory or one of .*, not 'dram/none'",
        "arch.dram={base: dram/none}",
    ),
    override(r"generate_tokens: must be greater than 0, not 0$", "workload.generate_tokens=0"),
    override(r"generate_tokens: must be greater than 0, not -5$", "workload.generate_tokens=-5"),
    override(r"generate_tokens: must be a whole number, not 1\.5$", "workload.generate_tokens=1.5"),
    override(r"generate_tokens: must be a whole number, not true$", "workload.generate_tokens=true"),
    override(r"generate_tokens: must be at most 10,000,000, not 10,000,001$", "workload.generate_tokens=10000001"),
    override(r"prompt_tokens: must be at most 10,000,000, not ", "workload.prompt_tokens=1000000000000"),
    override(r"model\.layers: must be at most 10,000, not 1,000,000,000$", "workload.model.layers=1000000000"),
    override(r"model\.d_model: must be at most 1,000,000, not ", "workload.model.d_model=1000000000000"),
    override(r"attention: must be one of .*vanilla, not 'flesh'; did you mean 'flash'\?$", "workload.attention=flesh"),
    override(r"lm_head: must be true or false, not 'on'", "workload.lm_head=on"),
    given(
        r"--set workload\.name=x: the path must start with arch\., not 'workload'$",
        "show",
        "--arch",
        "pim_gpt",
        "--set",
        "workload.name=x",
    ),
    given(
        r"--set arch\.name=x: the path must start with dram\., not 'arch'$", *VERIFY, "--set", "arch.name=x", t=TRACE
    ),
    given(r"--set x: must be path=value, such as dram\.channels=2$", *VERIFY, "--set", "x", t=TRACE),
]

MACHINES = [
    deep(r"model\.d_model must be a multiple of model\.heads, not 128 and 3$", "workload.model.heads=3"),
    deep(r"model\.d_model must be a multiple of model\.heads, not 128 and 256$", "workload.model.heads=256"),
    deep(r"dram\.rows must hold gpt2_decode with a KV cache of 1 tokens: \d+ rows per bank \(", "arch.dram.rows=1"),
    given(
        r"dram\.rows must hold gpt2_decode with a KV cache of 10000000 tokens: ",
        *RUN,
        "--set",
        "workload.generate_tokens=10000000",
    ),
    given(
        r"dram\.rows must hold gpt3_xl_decode with ",
        "run",
        "--arch",
        "pim_gpt",
        "--workload",
        "gpt3_xl_decode",
        "--set",
        "arch.dram.channels=1",
    ),
    deep(
        r"asic\.sram_bytes must hold the buffers of gpt2_decode: \d+ bytes, not 64 \(largest: ",
        "arch.asic.sram_bytes=64",
    ),
    deep(
        r"pim\.global_buffer_bytes must hold the query of one head: 128 elements, not 16$",
        "workload.model.heads=1",
        "arch.pim.global_buffer_bytes=32",
    ),
    given(
        DDR4 + r"dram\.commands: must have the commands of a program, ACT, .*; missing: ACT_AB, MAC_AB, WR_GB, RD_MAC$",
        *RUN,
        *TINY,
        "--set",
        "arch.dram={base: dram/ddr4_3200aa}",
    ),
]

FILES = [
    arch(r"a\.yaml: the file must hold a mapping; it is empty$", ""),
    arch(r"a\.yaml:1:1: the file must hold a mapping, not a list$", "- 1\n"),
    arch(r"a\.yaml:1:1: the file must hold a mapping, not 'pim'$", "pim\n"),
    arch(r"a\.yaml:3:1: key 'name' must be given only once; the first is on line 2$", ARCH + "name: again\n"),
    arch(r"a\.yaml:4:1: indentation must be spaces, not tabs$", ARCH + "pim:\n\tformat: int8\n"),
    arch(
        r"a\.yaml:2:7: must have no tag, not 'tag:yaml\.org,2002:python/object/apply:os\.system'$",
        "base: pim_gpt\nname: !!python/object/apply:os.system [ls]\n",
    ),
    arch(
        r"a\.yaml:1:7: base: files must not inherit from each other in a circle: a\.yaml -> a\.yaml$", "base: a.yaml\n"
    ),
    given(
        r"b\.yaml:1:7: base: files must not inherit from each other in a circle: a\.yaml -> b\.yaml -> a\.yaml$",
        *WITH_ARCH,
        a="base: b\n",
        b="base: a\n",
    ),
    arch(
        r"a\.yaml:1:7: base: must name a file beside a\.yaml or one of .*, not 'pim_gptt'; did you mean",
        "base: pim_gptt\n",
    ),
    arch(r"a\.yaml:1:7: base: must be the name of a file, not 5$", "base: 5\n"),
    arch(r"a\.yaml:6:10: must hold at most 100,000 values, aliases expanded$", bomb()),
    arch(r"a\.yaml: the file must have at most 1,000,000 bytes$", "# " + "x" * 1_000_001),
    arch(r"a\.yaml:1: the file must be UTF-8 text$", b"name: \xff\xfe\n"),
    arch(r"a\.yaml:1:\d+: must be text, without the character U\+0000$", b"name: \x00\n"),
    arch(r"a\.yaml:2:1: must hold one YAML document, not several$", "name: a\n---\nname: b\n"),
    arch(r"a\.yaml:3:1: asics: unknown key 'asics'; did you mean 'asic'\?", ARCH + "asics: {}\n"),
    arch(r"a\.yaml:1:1: must have the key 'dram'", "name: mine\n"),
    arch(r"a\.yaml:3:\d+: asic: must be a mapping, not 'fast'$", ARCH + "asic: fast\n"),
    arch(
        r"a\.yaml:3:\d+: pim\.sources\.\w+: must be '<trust>: <origin>' with a trust word of ",
        ARCH + "pim: {sources: {format: guess}}\n",
    ),
    arch(
        r"a\.yaml:3:\d+: energy\.mac_units_power_mw: must be at least 0, not -1$",
        ARCH + "energy: {mac_units_power_mw: -1}\n",
    ),
    arch(r"a\.yaml:3:\d+: alias \*x must come after its anchor &x$", ARCH + "pim: *x\n"),
    arch(r"a\.yaml:1:67: must be nested at most 64 deep$", "x: " + "[" * 200 + "]" * 200 + "\n"),
    workload(
        r"w\.yaml:3:18: generate_tokens: must be a whole number without a unit ",
        WORKLOAD.replace(": 1\n", ": 64 tokens\n"),
    ),
    workload(
        r"w\.yaml:3:18: generate_tokens: must be a whole number, not '1'; leave out the quotes$",
        WORKLOAD.replace(": 1\n", ": '1'\n"),
    ),
    workload(r"w\.yaml:2:1: model: must have the key 'heads'$", WORKLOAD.replace("heads: 4, ", "")),
    workload(
        r"w\.yaml:2:\d+: model\.layers: must be greater than 0, not 0$", WORKLOAD.replace("layers: 1", "layers: 0")
    ),
    workload(
        r"w\.yaml:2:\d+: model\.d_ff: must be a whole number, not 256\.0; write 256$", WORKLOAD.replace("256", "256.0")
    ),
    workload(r"w\.yaml:4:9: family: must be .*, not 'bert'", WORKLOAD + "family: bert\n"),
]

TRACES = [
    given(r"t\.csv: must be a readable file \(No such file or directory\)$", *VERIFY),
    given(r"\.: must be a readable file \(Is a directory\)$", *VERIFY[:-1], "."),
    verify(r"t\.csv: must have a header line such as cycle,command,.*; the file is empty$", ""),
    verify(r"t\.csv:1: the header must have a column cycle$", "command,bank\nACT,0\n"),
    verify(r"t\.csv:1: the header must have a column command$", "cycle,bank\n1,0\n"),
    verify(r"t\.csv:1: the header must have the column bank once$", "cycle,command,bank,bank\n"),
    verify(
        r"t\.csv:1: column must be one of .*, not 'plane'$", "cycle,command,bankgroup,bank,row,plane\n1,ACT,0,0,0,0\n"
    ),
    verify(
        r"t\.csv:2: command must be one of ACT, .*, not 'ACTT'; did you mean 'ACT'\?$", TRACE + "1,ACTT,0,0,0,0,0\n"
    ),
    verify(r"t\.csv:2: cycle must be an integer of at most 18 digits, not '1\.5'$", TRACE + "1.5,ACT,0,0,0,0,0\n"),
    verify(r"t\.csv:2: cycle must be an integer >= -1, not -3$", TRACE + "-3,ACT,0,0,0,0,0\n"),
    verify(
        r"t\.csv:3: row must be an integer of at most 18 digits, not 'x'$", TRACE + "1,ACT,0,0,0,0,0\n1,ACT,0,0,1,x,0\n"
    ),
    verify(r"t\.csv:2: row must lie in 0\.\.16383, not 16384$", TRACE + "1,ACT,0,0,0,16384,0\n"),
    verify(r"t\.csv:2: bank must lie in 0\.\.3, not 4$", TRACE + "1,ACT,0,0,4,0,0\n"),
    verify(r"t\.csv:2: channel must lie in 0\.\.0, not 1$", TRACE + "1,ACT,1,0,0,0,0\n"),
    verify(r"t\.csv:2: bank must lie in 0\.\.3, not -1, because ACT addresses one$", TRACE + "1,ACT,0,0,,0,0\n"),
    verify(r"t\.csv:2: a line must have 7 fields as the header has, not 3$", TRACE + "1,ACT,0\n"),
    verify(r"t\.csv: must be a text file in UTF-8$", b"\xff\xfe\x00\x01" * 100),
    verify(r"t\.csv:1: must be a text file, not a binary file$", b"cycle,command\x00\n"),
    verify(r"t\.csv:1: a line must have at most 10000 characters$", "x" * 20_000),
    given(r"t\.csv:2: command must be one of ACT, ", *REPLAY, t=TRACE + "1,NOP,0,0,0,0,0\n"),
    given(r"t\.csv:2: command must be a name, not empty$", *REPLAY, t=TRACE + "1,,0,0,0,0,0\n"),
    given(
        r"d\.yaml:2:1: levels: banks of a channel must lie in 1\.\.1,024, not 4,000,000,000$",
        "replay",
        "--dram",
        "d.yaml",
        "--trace",
        "t.csv",
        d="base: dram/pim_gpt_gddr6\nlevels: {bank: 1000000000}\n",
        t=TRACE,
    ),
    given(
        DRAM + r"refresh\.interval: must be longer than 563 ticks", *VERIFY, "--set", "dram.timing.nREFI=100", t=TRACE
    ),
]

CASES = [*COMMAND_LINES, *OVERRIDES, *MACHINES, *FILES, *TRACES]


def label(case: Case) -> str:
    text = " ".join(argument for argument in case.arguments if argument not in (*TINY, *RUN))
    return re.sub(r"[^\w.=-]+", "_", text)[:60]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=label)
def test_bad_input(case: Case, folder: Path) -> None:
    for name, text in case.files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    before = sorted(path.name for path in folder.iterdir())
    result = pimsim(*case.arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.match(case.message, lines[0].removeprefix("error: ")), lines[0]
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(folder: Path) -> None:
    (folder / "folder").chmod(0o500)
    result = pimsim(*RUN, *TINY, "--out", "folder")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: folder: must be a folder that can be written (Permission denied)\n"


def test_a_folder_in_which_nothing_can_be_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    result = pimsim(*RUN, *TINY, "--out", "folder")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: folder: must be a folder that can be written (Permission denied)\n"
