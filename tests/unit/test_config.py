"""Loading, hashing, sources and checks across fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pimsim import catalog
from pimsim.config import (
    COMMAND_LINE,
    Loaded,
    load_arch,
    load_dram,
    load_workload,
    split_overrides,
    unsourced,
)
from pimsim.errors import ConfigError, UnknownName
from pimsim.yamlio import InvalidConfig

DRAM = """\
name: tiny
description: a memory
standard: TEST
tck_ps: 1000
levels: {bank: 16}
rows: 64
columns: 8
burst_bytes: 32
register_files: {accumulator: 2}
timing:
  nRCD: 12
  nRP: 10
  nREFI: 5000
commands:
  ACT: {scope: bank, effect: open, latency: nRCD}
  PREab: {scope: channel, effect: close, latency: nRP}
  REFab: {scope: channel, needs: closed, refresh: true}
rules:
  - {level: bank, prev: [ACT], next: [PREab], min: nRCD}
  - {level: bank, prev: [PREab], next: [ACT], min: nRP}
sources:
  timing: "code: somewhere"
  timing.nRP: "datasheet: page 3"
"""

ARCH = """\
base: pim_gpt
name: mine
pim:
  multipliers: 16
"""

WORKLOAD = """\
name: tiny
model: {layers: 2, d_model: 64, heads: 4, d_ff: 256, vocabulary: 100, context: 64}
generate_tokens: 4
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str) -> str:
    Path(name).write_text(text)
    return name


def dram(text: str = DRAM, *overrides: tuple[str, str]) -> Loaded[Any]:
    return load_dram(write(text, "dram.yaml"), overrides)


def arch(text: str = ARCH, *overrides: tuple[str, str]) -> Loaded[Any]:
    return load_arch(write(text, "arch.yaml"), overrides)


# ----------------------------------------------------------------------------------------------------------- loading


def test_a_file_is_loaded_with_its_places() -> None:
    loaded = dram()
    assert (loaded.value.name, loaded.value.rows, loaded.path) == ("tiny", 64, Path("dram.yaml"))
    assert loaded.tree.position(("rows",)).line == 6


def test_overrides_apply() -> None:
    assert dram(DRAM, ("rows", "128"), ("timing.nRCD", "14")).value.resolve().timing["nRCD"] == 14
    assert arch(ARCH, ("dram.channels", "16")).value.dram.channels == 16
    assert load_workload(write(WORKLOAD, "w.yaml"), [("generate_tokens", "9")]).value.generate_tokens == 9


def test_an_override_that_does_not_fit_names_the_option() -> None:
    with pytest.raises(
        InvalidConfig, match=r"^--set workload\.generate_tokens=0: generate_tokens: must be greater than 0"
    ):
        load_workload(write(WORKLOAD, "w.yaml"), [("generate_tokens", "0")])
    with pytest.raises(
        ConfigError, match=r"^--set arch\.dram\.chanels=16: unknown key 'chanels'; did you mean 'channels'\?"
    ):
        load_arch("pim_gpt", [("dram.chanels", "16")])


@pytest.mark.parametrize(("load", "kind"), [(load_arch, "arch"), (load_workload, "workload"), (load_dram, "dram")])
def test_an_unknown_name(load: Any, kind: str) -> None:
    with pytest.raises(UnknownName, match=rf"^{kind} must be one of .*, not 'nothing'$"):
        load("nothing")


@pytest.mark.parametrize(("load", "kind"), [(load_arch, "arch"), (load_workload, "workload"), (load_dram, "dram")])
def test_every_shipped_file_loads_and_every_number_has_a_source(load: Any, kind: str) -> None:
    for name in catalog.names(kind):
        loaded = load(name)
        assert loaded.value.name == name
        assert unsourced(loaded) == [], name


# -------------------------------------------------------------------------------------------------------------- hash


def test_the_hash_is_of_the_content() -> None:
    digest = dram().hash
    assert len(digest) == 64
    same = DRAM.replace("a memory", "another text").replace("page 3", "page 4").replace("tck_ps: 1000", "tck_ps: 1.0e3")
    assert dram(same + "channels: 1   # the default\n").hash == digest
    assert dram(DRAM, ("description", "x")).hash == digest


@pytest.mark.parametrize(
    "option", [("rows", "65"), ("timing.nRCD", "13"), ("rules.0.min", "nRP"), ("levels", "{rank: 1, bank: 16}")]
)
def test_the_hash_changes_with_the_content(option: tuple[str, str]) -> None:
    assert dram(DRAM, option).hash != dram().hash


def test_the_order_of_levels_is_content() -> None:
    outer, inner = ("levels", "{rank: 1, bank: 16}"), ("levels", "{bank: 16, rank: 1}")
    assert dram(DRAM, outer).hash != dram(DRAM, inner).hash


# ----------------------------------------------------------------------------------------------------------- options


def test_options_are_split_by_file() -> None:
    assert split_overrides(["arch.x.y=1", "workload.z=a=b", "arch.w="]) == {
        "arch": [("x.y", "1"), ("w", "")],
        "workload": [("z", "a=b")],
    }
    assert split_overrides([]) == {"arch": [], "workload": []}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("arch.x", r"^--set arch\.x: must be path=value, such as arch\.dram\.channels=16$"),
        (
            "arhc.x=1",
            r"^--set arhc\.x=1: the path must start with arch\. or workload\., not 'arhc'; did you mean 'arch'\?$",
        ),
        ("x=1", r"^--set x=1: the path must start with arch\. or workload\., not 'x'$"),
        ("=1", r"^--set =1: the path must start with arch\. or workload\., not ''$"),
        ("arch=1", r"^--set arch=1: the path must name a field, such as arch\.dram\.channels=16$"),
        ("arch.=1", r"^--set arch\.=1: the path must name a field, such as arch\.dram\.channels=16$"),
    ],
)
def test_a_malformed_option(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_overrides([option])


@pytest.mark.parametrize(("field", "limit"), [("model.layers", "10,000"), ("generate_tokens", "10,000,000")])
def test_decoders_beyond_all_machines_are_refused_wherever_they_are_loaded(field: str, limit: str) -> None:
    """Also by sweeps and from Python, which once built a graph of as many layers as a file asked for."""
    message = rf"^--set workload\.{field}=1{'0' * 30}: {field}: must be at most {limit}, not 1,000"
    with pytest.raises(ConfigError, match=message):
        load_workload("gpt2_decode", [(field, str(10**30))])


# ----------------------------------------------------------------------------------------------------------- sources


def test_the_longest_path_says_where_a_number_comes_from() -> None:
    loaded = dram()
    assert loaded.source_of(("timing", "nRCD")) == "code: somewhere"
    assert loaded.source_of(("timing", "nRP")) == "datasheet: page 3"
    assert loaded.source_of(("rows",)) is None


def test_numbers_without_a_source_are_listed() -> None:
    assert unsourced(dram()) == [
        "tck_ps",
        "levels.bank",
        "rows",
        "columns",
        "burst_bytes",
        "register_files.accumulator",
    ]


def test_the_command_line_is_a_source() -> None:
    assert dram(DRAM, ("rows", "65")).source_of(("rows",)) == COMMAND_LINE


def test_a_source_of_the_base_does_not_vouch_for_what_replaces_its_number() -> None:
    write(DRAM, "dram.yaml")
    loaded = load_dram(write("base: dram.yaml\ntiming: {nRP: 11}\n", "mine.yaml"))
    assert loaded.source_of(("timing", "nRCD")) == "code: somewhere"
    assert loaded.source_of(("timing", "nRP")) is None
    vouched = load_dram(write("base: dram.yaml\ntiming: {nRP: 11}\nsources: {timing: 'assumed: mine'}\n", "mine.yaml"))
    assert vouched.source_of(("timing", "nRP")) == "assumed: mine"


def test_a_section_around_is_a_source_too() -> None:
    loaded = arch(ARCH + "sources: {pim.multipliers: 'assumed: sixteen'}\n")
    assert loaded.source_of(("pim", "multipliers")) == "assumed: sixteen"
    assert unsourced(arch()) == ["pim.multipliers"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "rows: 'paper 3'",
            r"^dram\.yaml:24:9: sources\.rows: must be '<trust>: <origin>' with a trust word of datasheet, "
            r"paper, .*, not 'paper 3'",
        ),
        ("rows: 'papr: 3'", r"^dram\.yaml:24:9: sources\.rows: must be .*, not 'papr: 3'; did you mean 'paper'\?$"),
        ("rows: 'paper: '", r"^dram\.yaml:24:9: sources\.rows: must be '<trust>: <origin>'"),
        (
            "row: 'paper: 3'",
            r"^dram\.yaml:24:8: sources\.row: must be about one of name, .*, not 'row'; did you mean 'rows'\?$",
        ),
        (
            "timing.nRDC: 'paper: 3'",
            r"^dram\.yaml:24:16: sources\.timing\.nRDC: must be about one of nRCD, nRP, nREFI, not 'nRDC'; "
            r"did you mean 'nRCD'\?$",
        ),
        ("rules.2: 'paper: 3'", r"^dram\.yaml:24:12: sources\.rules\.2: must be about a field, not '2'$"),
        ("rows.x: 'paper: 3'", r"^dram\.yaml:24:11: sources\.rows\.x: must be about a field, not 'x'$"),
        ("rows: 3", r"^dram\.yaml:24:9: sources\.rows: must be text, not 3; put it in quotes$"),
    ],
)
def test_a_malformed_source(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dram(f"{DRAM}  {entry}\n")


def test_a_source_may_be_about_an_item_of_a_list() -> None:
    assert dram(f"{DRAM}  rules.1.min: 'paper: 3'\n").source_of(("rules", 1, "min")) == "paper: 3"


# ------------------------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "prev: [PREab]",
            "prev: [PREba]",
            r"^dram\.yaml:20:\d+: rules\.1\.prev: command must be one of .*, not 'PREba'; did you mean 'PREab'\?$",
        ),
        (
            "level: bank, prev: [PREab]",
            "level: bnk, prev: [PREab]",
            r"^dram\.yaml:20:13: rules\.1\.level: level must be one of .*, not 'bnk'; did you mean 'bank'\?$",
        ),
        (
            "scope: bank",
            "scope: bnk",
            r"^dram\.yaml:15:16: commands\.ACT\.scope: scope must be one of .*, not 'bnk'; did you mean 'bank'\?$",
        ),
        (
            "refresh: true",
            "register_file: acc",
            r"^dram\.yaml:17:57: commands\.REFab\.register_file: register file must be one of accumulator, not 'acc'",
        ),
        ("min: nRP", "min: nRO", r"^dram\.yaml:20:52: rules\.1\.min: a name must be one of .*, not 'nRO'"),
        ("nRCD: 12", "nRCD: 12 +", r"^dram\.yaml:11:9: timing\.nRCD: an expression must be arithmetic"),
    ],
)
def test_a_name_that_does_not_exist(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dram(DRAM.replace(old, new))


def test_in_an_architecture_the_path_starts_with_dram() -> None:
    with pytest.raises(
        ConfigError, match=r"^--set arch\.dram\.rules\.0\.min=nX: dram\.rules\.0\.min: a name must be one of"
    ):
        arch(ARCH, ("dram.rules.0.min", "nX"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ("dram.burst_bytes", "1"),
            r"^--set arch\.dram\.burst_bytes=1: dram\.burst_bytes: must be a multiple of the 2 bytes of a bfloat16, not 1$",
        ),
        (
            ("pim.multipliers", "8"),
            r"^--set arch\.pim\.multipliers=8: pim\.multipliers: must be dram\.burst_bytes / bytes of a "
            r"bfloat16 = 32 / 2 = 16, so that one column access feeds every multiplier, not 8$",
        ),
        (
            ("pim.format", "float32"),
            r"^arch\.yaml:4:16: pim\.multipliers: must be dram\.burst_bytes / bytes of a float32 = 32 / 4 = 8, ",
        ),
        (
            ("pim.global_buffer_bytes", "100"),
            r"^--set \S+: pim\.global_buffer_bytes: must be a multiple of dram\.burst_bytes, which is 32, not 100$",
        ),
        (
            ("pim.accumulators", "7"),
            r"^--set \S+: pim\.accumulators: must be dram\.register_files\.accumulator, which is \d+, not 7$",
        ),
    ],
)
def test_mac_units_that_do_not_fit_the_memory(option: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arch(ARCH, option)


@pytest.mark.parametrize(
    ("load", "choices", "hint"), [(load_arch, "pim", "; did you mean 'pim'?"), (load_workload, "decoder", "")]
)
def test_an_unknown_kind(load: Any, choices: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("name: x\nkind: pin\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}:2:\d+: kind: must be one of {choices}") as caught:
        load(file)
    assert str(caught.value).endswith(f"not 'pin'{hint}")
