"""The YAML reader: scalars, safety, inheritance, overrides, validation messages and writing."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from pimsim import yamlio
from pimsim.errors import ConfigError
from pimsim.model import Model, NonNegativeFloat, PositiveFloat, PositiveInt
from pimsim.yamlio import InvalidConfig, Position, Tree, apply_overrides, dump, load_tree, resolve_scalar, validate


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str | bytes, name: str = "a.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def load(text: str | bytes) -> Any:
    return load_tree(write(text), search=()).data


# ---------------------------------------------------------------------------------------------------------- scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1.0e9", 1e9),
        ("1E-3", 0.001),
        (".5", 0.5),
        ("5.", 5.0),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("16:9", "16:9"),
        ("2024-01-31", "2024-01-31"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("1 GHz", "1 GHz"),
        ("nRCD + nRP", "nRCD + nRP"),
        (".", "."),
        ("1e", "1e"),
    ],
)
def test_a_scalar_follows_the_core_schema(text: str, value: object) -> None:
    read = load(f"x: {text}\n")["x"]
    assert (read, type(read)) == (value, type(value))
    assert resolve_scalar(text) == value


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(load("x: .nan")["x"])


@pytest.mark.parametrize("text", ["'12'", '"12"', "|-\n  12", ">-\n  12"])
def test_what_is_quoted_is_text(text: str) -> None:
    assert load(f"x: {text}\n") == {"x": "12"}


def test_keys_are_text() -> None:
    assert load("1: a\non: b\nnull: c\n1.0: d\n") == {"1": "a", "on": "b", "null": "c", "1.0": "d"}


def test_an_alias_repeats_its_anchor() -> None:
    assert load("a: &x {b: 1}\nc: [*x, *x]\n") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


# -------------------------------------------------------------------------------------------------------- positions


def test_every_value_and_key_has_a_place() -> None:
    tree = load_tree(write("name: x\ndram:\n  rules:\n    - {min: 3}\n"), search=())
    assert tree.positions == {
        (): Position("a.yaml", 1, 1),
        ("name",): Position("a.yaml", 1, 7),
        ("dram",): Position("a.yaml", 2, 1),
        ("dram", "rules"): Position("a.yaml", 3, 3),
        ("dram", "rules", 0): Position("a.yaml", 4, 7),
        ("dram", "rules", 0, "min"): Position("a.yaml", 4, 13),
    }
    assert tree.keys["dram", "rules", 0, "min"] == Position("a.yaml", 4, 8)
    assert tree.files == (Path("a.yaml"),)


def test_the_place_of_what_is_missing_is_around_it() -> None:
    tree = load_tree(write("dram:\n  rows: 1\n"), search=())
    assert tree.position(("dram", "refresh", "policy")) == Position("a.yaml", 1, 1)
    assert str(tree.error("must be", ("dram", "rows"))) == "a.yaml:2:9: dram.rows: must be"


# ----------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"^a\.yaml: the file must hold a mapping; it is empty$"),
        (b"# nothing\n", r"^a\.yaml: the file must hold a mapping; it is empty$"),
        (b"- 1\n", r"^a\.yaml:1:1: the file must hold a mapping, not a list$"),
        (b"just text\n", r"^a\.yaml:1:1: the file must hold a mapping, not 'just text'$"),
        (b"a: 1\n---\nb: 2\n", r"^a\.yaml:2:1: must (hold one YAML document|be valid YAML)"),
        (b"a: 1\nb: 2\na: 3\n", r"^a\.yaml:3:1: key 'a' must be given only once; the first is on line 1$"),
        (b"a: {b: 1,\n b: 2}\n", r"^a\.yaml:2:2: key 'b' must be given only once; the first is on line 1$"),
        (b"a:\n\tb: 1\n", r"^a\.yaml:2:1: indentation must be spaces, not tabs$"),
        (b"a: [1\n", r"^a\.yaml:2:1: must be valid YAML: while parsing a flow sequence"),
        (b"a: b: c\n", r"^a\.yaml:1:5: must be valid YAML: mapping values are not allowed"),
        (b"a: \xff\n", r"^a\.yaml:1: the file must be UTF-8 text$"),
        (b"a: 1\nb: \xe9\n", r"^a\.yaml:2: the file must be UTF-8 text$"),
        (b"a: 1\nb: \x00\n", r"^a\.yaml:2:4: must be text, without the character U\+0000$"),
        (b"\x7fELF\x02\x01", r"^a\.yaml:1:1: must be text, without the character U\+007F$"),
        (
            b"a: !!python/object/apply:os.system [ls]\n",
            r"^a\.yaml:1:4: must have no tag, not 'tag:yaml\.org,2002:python",
        ),
        (b"a: !mine 1\n", r"^a\.yaml:1:4: must have no tag, not '!mine'$"),
        (b"a: ! 1\n", r"^a\.yaml:1:4: must have no tag, not '!'$"),
        (b"!x a: 1\n", r"^a\.yaml:1:1: must have no tag, not '!x'$"),
        (b"a: *x\n", r"^a\.yaml:1:4: alias \*x must come after its anchor &x$"),
        (b"a: &x [*x]\n", r"^a\.yaml:1:8: alias \*x must not stand inside its own anchor$"),
        (b"a: {[1]: 2}\n", r"^a\.yaml:1:5: a key must be plain text$"),
        (
            b"a: &x {b: 1}\nc:\n  <<: *x\n",
            r"^a\.yaml:3:3: merge keys \('<<'\) are not part of YAML 1\.2; use 'base: NAME'$",
        ),
        (b"a: " + b"9" * 101 + b"\n", r"^a\.yaml:1:4: a whole number must have at most 100 digits$"),
        (b"a: " + b"[" * 64 + b"]" * 64 + b"\n", r"^a\.yaml:1:67: must be nested at most 64 deep$"),
        (b"a: " + b"[" * 400_000, r"^a\.yaml:1:\d+: must be nested at most 64 deep$"),
        (b"# " + b"x" * 1_000_000, r"^a\.yaml: the file must have at most 1,000,000 bytes$"),
        (b"a: [" + b"1," * 110_000 + b"]", r"^a\.yaml:1:\d+: must hold at most 100,000 values, aliases expanded$"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)
def test_what_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_a_byte_order_mark_is_no_content() -> None:
    assert load(b"\xef\xbb\xbfa: 1\n") == {"a": 1}


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"^a\.yaml:5:\d+: must hold at most 100,000 values, aliases expanded$"):
        load("\n".join(lines))
    assert time.perf_counter() - start < 2


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"^none\.yaml: the file must exist$"):
        load_tree("none.yaml")


@pytest.mark.parametrize("name", [".", "folder"])
def test_a_folder_is_no_file(name: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match=r"^\S+: must be a file, not a folder$"):
        load_tree(name)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_path_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^[\s\S]+: the file must be readable: "):
        load_tree(name)


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write("a: 1")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"^a\.yaml: the file must be readable: Permission denied$"):
        load_tree(path)


# ------------------------------------------------------------------------------------------------------- inheritance


def test_mappings_merge_and_the_rest_replaces() -> None:
    write("name: b\nlist: [1, 2]\nmap: {x: 1, y: {z: 2}}\n", "b.yaml")
    write("base: b.yaml\nlist: [3]\nmap: {y: {w: 4}, v: 5}\n")
    tree = load_tree("a.yaml", search=())
    assert tree.data == {"name": "b", "list": [3], "map": {"x": 1, "y": {"z": 2, "w": 4}, "v": 5}}
    assert tree.position(("name",)) == Position("b.yaml", 1, 7)
    assert tree.position(("map", "y", "w")) == Position("a.yaml", 3, 14)
    assert tree.position(("map", "y", "z")) == Position("b.yaml", 3, 20)
    assert tree.files == (Path("a.yaml"), Path("b.yaml"))


def test_a_base_stands_in_any_mapping() -> None:
    write("tck: 1\nrows: 2\n", "parts/b.yaml")
    write("dram: {base: parts/b, rows: 3}\nall: [{base: parts/b.yaml}]\n")
    assert load_tree("a.yaml", search=()).data == {"dram": {"tck": 1, "rows": 3}, "all": [{"tck": 1, "rows": 2}]}


def test_a_base_is_relative_to_the_file_that_names_it() -> None:
    write("x: 1\n", "deep/c.yaml")
    write("base: c\n", "deep/b.yaml")
    write("base: deep/b\n")
    assert load_tree("a.yaml", search=()).data == {"x": 1}


def test_a_base_is_found_in_the_shipped_folders() -> None:
    write("x: 1\n", "shipped/dram/part.yaml")
    write("base: dram/part\n")
    assert load_tree("a.yaml", search=[Path("shipped")]).data == {"x": 1}


def test_the_file_beside_wins() -> None:
    write("x: 1\n", "shipped/b.yaml")
    write("x: 2\n", "b.yaml")
    write("base: b\n")
    assert load_tree("a.yaml", search=[Path("shipped")]).data == {"x": 2}


def test_a_copy_may_inherit_from_the_shipped_file_of_its_name() -> None:
    write("x: 1\ny: 1\n", "shipped/a.yaml")
    write("base: a\ny: 2\n")
    assert load_tree("a.yaml", search=[Path("shipped")]).data == {"x": 1, "y": 2}


@pytest.mark.parametrize(("own", "expected"), [("other", {"z": 1}), ("null", {}), ("~", {})])
def test_a_mapping_with_a_base_of_its_own_starts_anew(own: str, expected: dict[str, int]) -> None:
    write("dram: {x: 1}\n", "b.yaml")
    write("z: 1\n", "other.yaml")
    write(f"base: b\ndram: {{base: {own}, w: 2}}\n")
    assert load_tree("a.yaml", search=()).data == {"dram": {**expected, "w": 2}}


def test_a_base_can_stay_unresolved() -> None:
    write("base: nowhere\nx: 1\n")
    assert load_tree("a.yaml", inherit=False).data == {"base": "nowhere", "x": 1}


def test_a_circle_is_named() -> None:
    write("base: b\n")
    write("x: {base: a}\n", "b.yaml")
    with pytest.raises(
        ConfigError,
        match=r"^b\.yaml:1:11: x\.base: files must not inherit from each other in a circle: a\.yaml -> "
        r"b\.yaml -> a\.yaml$",
    ):
        load_tree("a.yaml", search=())


def test_a_file_is_not_its_own_base() -> None:
    with pytest.raises(ConfigError, match=r"^a\.yaml:1:7: base: files must not .* in a circle: a\.yaml -> a\.yaml$"):
        load("base: a.yaml\n")


def test_an_unknown_base_lists_the_shipped_ones() -> None:
    write("x: 1\n", "shipped/dram/ddr4.yaml")
    write("dram:\n  base: dram/dr4\n")
    with pytest.raises(
        ConfigError,
        match=r"^a\.yaml:2:9: dram\.base: must name a file beside a\.yaml or one of dram/ddr4, not 'dram/dr4'; "
        r"did you mean 'dram/ddr4'\?$",
    ):
        load_tree("a.yaml", search=[Path("shipped")])


@pytest.mark.parametrize("given", ["[b]", "1", "{}", "true"])
def test_a_base_is_one_name(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^a\.yaml:1:(7|1): base: must be the name of a file, not "):
        load(f"base: {given}\n")


def test_a_bomb_of_bases_is_refused_at_once() -> None:
    write("x: 1\n", "f0.yaml")
    for level in range(1, 12):
        write("".join(f"k{n}: {{base: f{level - 1}}}\n" for n in range(10)), f"f{level}.yaml")
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"^f\d+\.yaml.*: a configuration must hold at most 100,000 values, bases"):
        load_tree("f11.yaml", search=())
    assert time.perf_counter() - start < 3


def test_a_chain_of_bases_has_an_end() -> None:
    write("x: 1\n", "f0.yaml")
    for level in range(1, 40):
        write(f"base: f{level - 1}\n", f"f{level}.yaml")
    with pytest.raises(
        ConfigError, match=r"^f7\.yaml:1:7: base: at most 32 files must inherit from each other in a row"
    ):
        load_tree("f39.yaml", search=())


def test_nesting_through_bases_has_an_end() -> None:
    write("x: " + "{y: " * 40 + "1" + "}" * 40 + "\n", "b.yaml")
    write("x: " + "{y: " * 40 + "{base: b}" + "}" * 40 + "\n")
    with pytest.raises(ConfigError, match=r"^b\.yaml:1:\d+: x\..*: must be nested at most 64 deep$"):
        load_tree("a.yaml", search=())


def test_nesting_through_a_base_that_is_used_twice_has_an_end() -> None:
    write("x: " + "{y: " * 40 + "1" + "}" * 40 + "\n", "b.yaml")
    write("v: {base: b}\nx: " + "{y: " * 40 + "{base: b}" + "}" * 40 + "\n")
    with pytest.raises(ConfigError, match=r"^b\.yaml:1:1: x\..*: must be nested at most 64 deep$"):
        load_tree("a.yaml", search=())


def test_a_base_that_is_used_twice_is_not_shared() -> None:
    write("y: {z: 1}\n", "b.yaml")
    write("v: {base: b}\nw: {base: b, y: {z: 2}}\nu: {base: b}\n")
    data = load_tree("a.yaml", search=()).data
    data["v"]["y"]["z"] = 3
    assert data == {"v": {"y": {"z": 3}}, "w": {"y": {"z": 2}}, "u": {"y": {"z": 1}}}


# --------------------------------------------------------------------------------------------------------- overrides


class Refresh(Model):
    policy: Literal["all_bank", "none"] = "all_bank"
    interval: int | str = "nREFI"


class Electrical(Model):
    vdd_v: PositiveFloat
    idd0_ma: NonNegativeFloat


class Rule(Model):
    prev: list[str]
    min: int | float | str


class Dram(Model):
    channels: PositiveInt
    clock_mhz: PositiveFloat = 1000.0
    levels: dict[str, PositiveInt] = Field(default_factory=dict)
    timing: dict[str, int | float | str] = Field(default_factory=dict)
    rules: list[Rule] = Field(default_factory=list)
    refresh: Refresh = Refresh(interval=7)
    electrical: Electrical | None = None
    quick: bool = False


class Gpu(Model):
    kind: Literal["gpu"]
    cores: PositiveInt


class Fpga(Model):
    kind: Literal["fpga"]
    slices: PositiveInt


class Machine(Model):
    name: str
    dram: Dram
    unit: Gpu | Fpga | None = None


MACHINE = "name: m\ndram:\n  channels: 8\n  rules:\n    - {prev: [ACT], min: 3}\n"


def tree(text: str = MACHINE) -> Tree:
    return load_tree(write(text), search=())


def override(*options: str, text: str = MACHINE) -> Tree:
    pairs = [(path, value) for path, _, value in (option.partition("=") for option in options)]
    return apply_overrides(tree(text), pairs, model=Machine, prefix="arch", search=())


def test_an_override_replaces_and_takes_its_place() -> None:
    changed = override("dram.channels=16", "dram.rules.0.min=nRCD + 1", "dram.levels={bank: 4}")
    assert changed.data["dram"] == {
        "channels": 16,
        "rules": [{"prev": ["ACT"], "min": "nRCD + 1"}],
        "levels": {"bank": 4},
    }
    assert changed.position(("dram", "channels")) == Position("--set arch.dram.channels=16")
    assert changed.position(("dram", "levels", "bank")).file == "--set arch.dram.levels={bank: 4}"
    assert changed.position(("name",)) == Position("a.yaml", 1, 7)


def test_an_override_does_not_touch_the_tree_it_starts_from() -> None:
    before = tree()
    apply_overrides(before, [("dram.rules.0.min", "4")])
    assert before.data["dram"]["rules"][0]["min"] == 3


def test_the_last_override_wins() -> None:
    assert override("dram.channels=1", "dram.channels=2").data["dram"]["channels"] == 2


def test_an_empty_text_is_null() -> None:
    assert override("dram.electrical=").data["dram"]["electrical"] is None


def test_a_section_with_a_default_is_made_with_the_default() -> None:
    assert override("dram.refresh.policy=none").data["dram"]["refresh"] == {"interval": 7, "policy": "none"}


def test_a_section_that_the_file_leaves_out_is_made() -> None:
    with pytest.raises(
        InvalidConfig, match=r"^--set arch\.dram\.electrical\.vdd_v=1: dram\.electrical: must have the key 'idd0_ma'$"
    ):
        validate(override("dram.electrical.vdd_v=1"), Machine)


def test_a_new_name_in_an_open_mapping() -> None:
    assert override("dram.timing.nRCD=12").data["dram"]["timing"] == {"nRCD": 12}


def test_an_override_may_inherit() -> None:
    write("channels: 3\n", "part.yaml")
    changed = override("dram={base: part}")
    assert changed.data["dram"] == {"channels": 3}
    assert changed.position(("dram", "channels")) == Position("part.yaml", 1, 11)
    assert changed.files == (Path("a.yaml"), Path("part.yaml"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "dram.chanels=16",
            r"^--set arch\.dram\.chanels=16: unknown key 'chanels'; did you mean 'channels'\? the keys are channels, ",
        ),
        (
            "drum.channels=1",
            r"^--set arch\.drum\.channels=1: unknown key 'drum'; did you mean 'dram'\? the keys are name, ",
        ),
        ("zzz=1", r"^--set arch\.zzz=1: unknown key 'zzz'; the keys are name, dram, unit$"),
        ("name.x=1", r"^--set arch\.name\.x=1: 'name' must be a mapping or a list to have 'x', not 'm'$"),
        ("dram.rules.1.min=1", r"^--set arch\.\S+=1: the index in 'dram\.rules' must be from 0 to 0, not '1'$"),
        ("dram.rules.x=1", r"^--set arch\.\S+=1: the index in 'dram\.rules' must be from 0 to 0, not 'x'$"),
        ("dram.rules.-1=1", r"^--set arch\.\S+=1: the index in 'dram\.rules' must be from 0 to 0, not '-1'$"),
        ("dram.rules.0.mim=1", r"^--set arch\.\S+=1: unknown key 'mim'; did you mean 'min'\? the keys are prev, min$"),
        (
            "dram.timing.a.b=1",
            r"^--set arch\.\S+=1: 'dram\.timing\.a' must be a mapping or a list, and it is not given$",
        ),
        ("=1", r"^--set arch\.=1: unknown key ''; the keys are name, dram, unit$"),
        ("name=[1", r"^--set arch\.name=\[1: must be valid YAML: "),
        ("name=!!x 1", r"^--set arch\.name=!!x 1: must have no tag, not "),
        ("name=a\0", r"^--set arch\.name=a\0: must be text, without the character U\+0000$"),
        ("name=\udc80", r"^--set arch\.name=\udc80: must be text, without the character U\+DC80$"),
        (
            "dram={base: nowhere}",
            r"^--set arch\.dram=\{base: nowhere\}: base: must name a file beside the working directory",
        ),
    ],
)
def test_a_wrong_override(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(option)


def test_without_a_model_the_surroundings_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"^--set x\.y=1: 'x' must be a mapping or a list, and it is not given$"):
        apply_overrides(tree(), [("x.y", "1")])


def test_a_wrong_value_in_an_override_names_the_option() -> None:
    with pytest.raises(
        InvalidConfig, match=r"^--set arch\.dram\.channels=-1: dram\.channels: must be greater than 0, not -1$"
    ):
        validate(override("dram.channels=-1"), Machine)


# -------------------------------------------------------------------------------------------------------- validation


def test_a_whole_number_is_a_number() -> None:
    assert validate(tree("name: m\ndram: {channels: 8, clock_mhz: 500}"), Machine).dram.clock_mhz == 500.0


@pytest.mark.parametrize(
    ("dram", "message"),
    [
        (
            "chanels: 8",
            r"^a\.yaml:3:3: dram\.chanels: unknown key 'chanels'; did you mean 'channels'\? the keys are "
            r"channels, clock_mhz, .* \(and 1 more\)$",
        ),
        ("clock_mhz: 1", r"^a\.yaml:2:1: dram: must have the key 'channels'$"),
        ("channels: 16.0", r"^a\.yaml:3:13: dram\.channels: must be a whole number, not 16\.0; write 16$"),
        ("channels: 16.5", r"^a\.yaml:3:13: dram\.channels: must be a whole number, not 16\.5$"),
        ("channels: '16'", r"^a\.yaml:3:13: dram\.channels: must be a whole number, not '16'; leave out the quotes$"),
        ("channels: true", r"^a\.yaml:3:13: dram\.channels: must be a whole number, not true$"),
        ("channels: null", r"^a\.yaml:3:13: dram\.channels: must be a whole number, not null$"),
        ("channels: [1]", r"^a\.yaml:3:3: dram\.channels: must be a whole number, not a list$"),
        ("channels: 0", r"^a\.yaml:3:13: dram\.channels: must be greater than 0, not 0$"),
        (
            "channels: 8\n  clock_mhz: 1 GHz",
            r"^a\.yaml:4:14: dram\.clock_mhz: must be a number without a unit \(the unit is in the key's "
            r"name\), not '1 GHz'$",
        ),
        ("channels: 8\n  clock_mhz: fast", r"^a\.yaml:4:14: dram\.clock_mhz: must be a number, not 'fast'$"),
        ("channels: 8\n  clock_mhz: .inf", r"^a\.yaml:4:14: dram\.clock_mhz: must be finite, not \.inf$"),
        ("channels: 8\n  clock_mhz: .nan", r"^a\.yaml:4:14: dram\.clock_mhz: must be (finite|greater than)"),
        (
            "channels: 8\n  timing: {nRCD: [1]}",
            r"^a\.yaml:4:12: dram\.timing\.nRCD: must be a number or text, not a list$",
        ),
        ("channels: 8\n  levels: {bank: x}", r"^a\.yaml:4:18: dram\.levels\.bank: must be a whole number, not 'x'$"),
        ("channels: 8\n  levels: 4", r"^a\.yaml:4:11: dram\.levels: must be a mapping, not 4$"),
        ("channels: 8\n  rules: {}", r"^a\.yaml:4:3: dram\.rules: must be a list, not a mapping$"),
        (
            "channels: 8\n  rules: [{prev: [1], min: 2}]",
            r"^a\.yaml:4:19: dram\.rules\.0\.prev\.0: must be text, not 1; put it in quotes$",
        ),
        ("channels: 8\n  rules: [{prev: [A]}]", r"^a\.yaml:4:11: dram\.rules\.0: must have the key 'min'$"),
        ("channels: 8\n  quick: yes", r"^a\.yaml:4:10: dram\.quick: must be true or false, not 'yes'$"),
        (
            "channels: 8\n  refresh: {policy: non}",
            r"^a\.yaml:4:21: dram\.refresh\.policy: must be one of all_bank, none, not 'non'; did you mean 'none'\?$",
        ),
        (
            "channels: 8\n  refresh: {policy: 3}",
            r"^a\.yaml:4:21: dram\.refresh\.policy: must be one of all_bank, none, not 3$",
        ),
        (
            "channels: 8\n  electrical: {vdd_v: 1, idd0_ma: -1}",
            r"^a\.yaml:4:35: dram\.electrical\.idd0_ma: must be at least 0, not -1$",
        ),
    ],
)
def test_a_wrong_value(dram: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        validate(tree(f"name: m\ndram:\n  {dram}\n"), Machine)


def test_a_missing_key_at_the_top() -> None:
    with pytest.raises(InvalidConfig, match=r"^a\.yaml:1:1: must have the key 'name' \(and 1 more\)$"):
        validate(tree("unit: null\n"), Machine)


def test_the_first_error_is_the_first_in_the_file() -> None:
    with pytest.raises(InvalidConfig) as caught:
        validate(tree("dram:\n  clock_mhz: x\n  channels: y\nunit: 3\nnam: m\n"), Machine)
    paths = [caught.value.path, *(error.path for error in caught.value.others)]
    assert paths == ["dram.clock_mhz", "dram.channels", "unit", "nam", ""]
    assert caught.value.message == "must be a number, not 'x' (and 4 more)"


def test_a_union_complains_about_the_member_that_is_meant() -> None:
    with pytest.raises(
        InvalidConfig,
        match=r"^a\.yaml:2:20: unit\.slice: unknown key 'slice'; did you mean 'slices'\? the keys are kind, slices",
    ):
        validate(tree("dram: {channels: 1}\nunit: {kind: fpga, slice: 3}\nname: x\n"), Machine)


def test_an_error_in_a_base_names_the_base() -> None:
    write("channels: none\n", "part.yaml")
    with pytest.raises(InvalidConfig, match=r"^part\.yaml:1:11: dram\.channels: must be a whole number, not 'none'$"):
        validate(tree("name: m\ndram: {base: part}\n"), Machine)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(
        InvalidConfig, match=r"^a\.yaml:2:18: dram\.channels: must be a whole number, not 'x{56}\.\.\.$"
    ):
        validate(tree(f"name: m\ndram: {{channels: {'x' * 500}}}\n"), Machine)


# ----------------------------------------------------------------------------------------------------------- writing


def test_dump_is_block_style_with_short_lists_in_a_line() -> None:
    data = {
        "name": "m",
        "text": "a: b",
        "empty": {},
        "dram": {"levels": {"bank": 4}, "next": ["RD", "WR"], "none": None, "f": 1e20},
        "rules": [{"prev": ["ACT"], "min": "nRCD + 1"}, [1, [2]], "1"],
    }
    assert dump(data) == (
        'name: m\ntext: "a: b"\nempty: {}\ndram:\n  levels:\n    bank: 4\n  next: [RD, WR]\n  none: null\n  f: 1e+20\n'
        'rules:\n  - {prev: [ACT], min: nRCD + 1}\n  - [1, [2]]\n  - "1"\n'
    )


def test_dump_writes_comments_behind_values() -> None:
    text = dump({"a": {"b": 1}, "c": [1, 2]}, lambda path: yamlio.dotted(path))
    assert text == "a:\n  b: 1  # a.b\nc:\n  - 1  # c.0\n  - 2  # c.1\n"


@pytest.mark.parametrize(
    "text",
    ["yes", "No", "null", "1e9", "0x1", "16:9", "- a", "a #b", "a: b", "", " a", "a\nb", "é\x85\u2028\ufeff😀", '"\\'],
)
def test_dump_quotes_text_that_would_be_something_else(text: str) -> None:
    assert load(dump({"x": text, text: [text]})) == {"x": text, text: [text]}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = TEXT.filter(lambda key: key != "base")
SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS | st.sampled_from(["on", "1e9", "0o7", "~", "1_0", "true", ".inf", "-", "<<"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_dumped_is_read_back(data: dict[str, Any]) -> None:
    read = load(dump(data))
    assert read == data
    assert repr(read) == repr(data)
    assert dump(read, lambda path: "behind\neach") == dump(data, lambda path: "behind\neach")
    assert load(dump(data, lambda path: "behind\neach")) == data


@given(st.binary(max_size=200) | st.text(alphabet="a b:-[]{}&*!|>'\"%#\n\t,?0.<", max_size=60).map(str.encode))
@settings(max_examples=500)
def test_any_bytes_are_a_mapping_or_a_config_error(content: bytes) -> None:
    try:
        assert isinstance(load(content), dict)
    except ConfigError as error:
        assert str(error).startswith("a.yaml")


@given(st.dictionaries(st.sampled_from(["name", "dram", "unit", "x"]), VALUES, max_size=4))
def test_any_data_is_a_machine_or_a_config_error(data: dict[str, Any]) -> None:
    try:
        validate(tree(dump(data)), Machine)
    except ConfigError as error:
        assert str(error).startswith("a.yaml")


@given(st.text(alphabet="dram.rules0123=x[]{}: channels", max_size=30), TEXT)
def test_any_override_is_applied_or_a_config_error(path: str, value: str) -> None:
    try:
        apply_overrides(tree(), [(path, value)], model=Machine, prefix="arch", search=())
    except ConfigError as error:
        assert str(error).startswith("--set arch.")


def test_the_pure_python_parser_gives_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a: é\nb:\n  - {c: 'x', d: [1, 2]}\n  - |\n    text\nc: &x 3\nd: *x\n")
    fast = load_tree(path, search=())
    monkeypatch.setattr(yamlio, "_LOADER", yaml.SafeLoader)
    assert load_tree(path, search=()) == fast
