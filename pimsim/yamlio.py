"""The only reader of YAML: safe, bounded, and every value remembers the file and line where it stands.

Scalars follow the core schema of YAML 1.2: ``1e9`` is a number, ``on`` and ``16:9`` are text. Tags and duplicate keys
are refused. ``base: NAME`` in any mapping takes the mapping of another file and overrides it: mappings merge, scalars
and lists replace. A mapping that has a ``base`` of its own (a name, or ``null`` for none) does not merge with the one
that it would have inherited from the base around it.
"""

from __future__ import annotations

import copy
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import yaml

from pimsim.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound="BaseModel")
Scalar = str | int | float | bool | None
FieldPath = tuple[str | int, ...]
"""Where a value stands in a configuration: mapping keys and list indices, outermost first."""

MAX_BYTES = 1_000_000
"""Size of one file."""
MAX_DEPTH = 64
"""Nesting of mappings and lists, after inheritance."""
MAX_NODES = 100_000
"""Values in one configuration, after aliases and inheritance."""
MAX_BASES = 32
"""Length of a chain of files that inherit from each other."""
MAX_DIGITS = 100
"""Characters of one whole number."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Position(NamedTuple):
    """Where a value is written: a file with line and column (from 1), or ``--set path=value`` without them."""

    file: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class Tree:
    """Plain data with the place of every value.

    ``positions`` has the place of each value (of its key where the value is a mapping or a list), ``keys`` the place
    of each key, ``files`` every file that was read: the first is the one that was asked for, a base comes after it.
    """

    data: dict[str, Any]
    positions: dict[FieldPath, Position]
    keys: dict[FieldPath, Position]
    files: tuple[Path, ...]

    def position(self, path: FieldPath = ()) -> Position:
        """The place of the value at ``path``, or of the closest mapping or list around it."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions[path]

    def error(self, message: str, path: FieldPath = ()) -> ConfigError:
        """An error about the value at ``path``, with its place."""
        return _error(message, self.position(path), path)


class InvalidConfig(ConfigError):
    """A configuration has one or more wrong values; this is the first one, `others` are the rest."""

    def __init__(self, first: ConfigError, others: Sequence[ConfigError] = ()) -> None:
        more = f" (and {len(others)} more)" if others else ""
        super().__init__(first.message + more, file=first.file, line=first.line, column=first.column, path=first.path)
        self.others = tuple(others)


def dotted(path: FieldPath) -> str:
    """The text of a field path.

    >>> dotted(("rules", 0, "min"))
    'rules.0.min'
    """
    return ".".join(str(part) for part in path)


def shipped_folders() -> tuple[Path, Path]:
    """The folders of the architectures and of the workloads that come with pimsim."""
    package = Path(__file__).resolve().parent
    installed = package / "shipped"
    root = installed if installed.is_dir() else package.parent
    return root / "arch_configs", root / "workloads"


def load_tree(path: Path | str, *, search: Sequence[Path] | None = None, inherit: bool = True) -> Tree:
    """Read a YAML file whose top level is a mapping.

    A ``base`` is looked for beside the file that names it, then in the ``search`` folders (default:
    `shipped_folders`), with and without ``.yaml``. With ``inherit=False`` the ``base`` keys stay in the data.

    Raises:
        ConfigError: the file cannot be read, is not safe and bounded YAML, or a ``base`` is missing or circular.
    """
    loader = _Loader(shipped_folders() if search is None else search)
    top = loader.read(Path(path))
    return loader.tree(loader.expand(top, Path(path)) if inherit else top)


# ---------------------------------------------------------------------------------------------------------- reading


class _Entry(NamedTuple):
    key: Position
    node: _Node


@dataclass(frozen=True, slots=True)
class _Node:
    """A value and its place; ``closed`` says that a mapping has a ``base`` of its own."""

    value: Scalar | list[_Node] | dict[str, _Entry]
    at: Position
    size: int = 1
    closed: bool = False


def _error(message: str, at: Position, path: FieldPath = ()) -> ConfigError:
    return ConfigError(message, file=at.file, line=at.line, column=at.column, path=dotted(path))


_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Scalar]], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda text: float("nan")),
)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def resolve_scalar(text: str) -> Scalar:
    """The value of an unquoted YAML 1.2 scalar.

    >>> [resolve_scalar(text) for text in ("1e9", "on", "16:9", "0o17", "010", "~")]
    [1000000000.0, 'on', '16:9', 15, 10, None]

    Raises:
        ValueError: a whole number has more than `MAX_DIGITS` digits.
    """
    for pattern, convert in _CORE:
        if pattern.fullmatch(text):
            if convert is not float and len(text) > MAX_DIGITS:
                raise ValueError(f"a whole number must have at most {MAX_DIGITS} digits")
            return convert(text)
    return text


class _Reader:
    """Builds nodes from the events of one YAML text; nothing is ever constructed from a tag."""

    def __init__(self, text: str, file: str, *, marks: bool = True) -> None:
        self._text, self._file, self._marks = text, file, marks
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, _Node | None] = {}
        self._nodes = 0

    def read(self) -> _Node | None:
        """The only document, or None if there is none."""
        self._refuse_unprintable()
        self._next()  # start of stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        node = self._node(self._next(), 1)
        self._next()  # end of document
        last = self._next()
        if not isinstance(last, yaml.StreamEndEvent):
            raise _error("must hold one YAML document, not several", self._at(last))
        return node

    def _refuse_unprintable(self) -> None:
        found = _UNPRINTABLE.search(self._text)
        if found is None:
            return
        before = self._text[: found.start()]
        at = self._position(before.count("\n"), len(before) - (before.rfind("\n") + 1))
        raise _error(f"must be text, without the character U+{ord(found.group()):04X}", at)

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = self._position(mark.line, mark.column) if mark else Position(self._file)
            raise _error(self._problem(error), at) from None
        except (yaml.YAMLError, ValueError) as error:
            raise _error(f"must be valid YAML: {str(error).splitlines()[0]}", Position(self._file)) from None

    def _problem(self, error: yaml.MarkedYAMLError) -> str:
        lines = self._text.splitlines()
        if error.problem_mark and error.problem_mark.line < len(lines):
            line = lines[error.problem_mark.line]
            if "\t" in line[: len(line) - len(line.lstrip())]:
                return "indentation must be spaces, not tabs"
        if error.problem and "nesting depth" in error.problem:  # libyaml reads ahead and has a limit of its own
            return f"must be nested at most {MAX_DEPTH} deep"
        return "must be valid YAML: " + ", ".join(part for part in (error.context, error.problem) if part)

    def _position(self, line: int, column: int) -> Position:
        return Position(self._file, line + 1, column + 1) if self._marks else Position(self._file)

    def _at(self, event: Any) -> Position:
        return self._position(event.start_mark.line, event.start_mark.column)

    def _node(self, event: Any, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._admit(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(event, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = _Node(self._scalar(event), self._at(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _admit(self, event: Any, depth: int) -> None:
        if event.tag is not None:
            raise _error(f"must have no tag, not {event.tag!r}", self._at(event))
        if depth > MAX_DEPTH:
            raise _error(f"must be nested at most {MAX_DEPTH} deep", self._at(event))
        self._count(1, event)

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _error(f"must hold at most {MAX_NODES:,} values, aliases expanded", self._at(event))

    def _alias(self, event: Any) -> _Node:
        if event.anchor not in self._anchors:
            raise _error(f"alias *{event.anchor} must come after its anchor &{event.anchor}", self._at(event))
        node = self._anchors[event.anchor]
        if node is None:
            raise _error(f"alias *{event.anchor} must not stand inside its own anchor", self._at(event))
        self._count(node.size, event)
        return node

    def _scalar(self, event: Any) -> Scalar:
        if not event.implicit[0]:
            return str(event.value)
        try:
            return resolve_scalar(event.value)
        except ValueError as error:
            raise _error(str(error), self._at(event)) from None

    def _sequence(self, start: Any, depth: int) -> _Node:
        items: list[_Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return _Node(items, self._at(start), 1 + sum(item.size for item in items))

    def _mapping(self, start: Any, depth: int) -> _Node:
        entries: dict[str, _Entry] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key, at = self._key(event), self._at(event)
            if key in entries:
                first = entries[key].key
                raise _error(f"key {key!r} must be given only once; the first is on line {first.line}", at)
            entries[key] = _Entry(at, self._node(self._next(), depth + 1))
        return _Node(entries, self._at(start), 1 + sum(entry.node.size for entry in entries.values()))

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _error("a key must be plain text", self._at(event))
        self._admit(event, 1)
        if event.value == "<<" and event.implicit[0]:
            raise _error("merge keys ('<<') are not part of YAML 1.2; use 'base: NAME'", self._at(event))
        return str(event.value)


class _Loader:
    """Reads files once, resolves ``base`` and counts the values of the whole configuration."""

    def __init__(self, search: Sequence[Path]) -> None:
        self._search = search
        self._files: dict[str, tuple[Path, _Node]] = {}
        self._bases: dict[tuple[Path, str], Path] = {}
        self._identities: dict[Path, str] = {}
        self._expanded: dict[Path, tuple[_Node, int, int]] = {}
        self._nodes = 0

    def tree(self, node: _Node) -> Tree:
        """The tree of an expanded top-level mapping."""
        positions: dict[FieldPath, Position] = {}
        keys: dict[FieldPath, Position] = {}
        data = _flatten(node, (), positions, keys)
        return Tree(data, positions, keys, tuple(path for path, _ in self._files.values()))

    def read(self, path: Path) -> _Node:
        """The top-level mapping of a file, its bases not yet resolved."""
        identity = self._identity(path)
        if identity not in self._files:
            self._files[identity] = (path, _read_file(path))
        return self._files[identity][1]

    def _identity(self, path: Path) -> str:
        """The same text for every way to write the path of one file."""
        if path not in self._identities:
            self._identities[path] = _real_path(path)
        return self._identities[path]

    def expand(
        self, node: _Node, file: Path, path: FieldPath = (), chain: tuple[Path, ...] = (), depth: int = 1
    ) -> _Node:
        """The same value with every ``base`` below it replaced by what it stands for."""
        self._admit(node, path, depth)
        if isinstance(node.value, list):
            items = [self.expand(item, file, (*path, index), chain, depth + 1) for index, item in enumerate(node.value)]
            return _Node(items, node.at)
        if not isinstance(node.value, dict):
            return node
        own = {
            key: _Entry(entry.key, self.expand(entry.node, file, (*path, key), chain, depth + 1))
            for key, entry in node.value.items()
            if key != "base"
        }
        expanded = _Node(own, node.at, closed="base" in node.value)
        base = node.value["base"].node if "base" in node.value else None
        if base is None or base.value is None:
            return expanded
        return self._inherit(expanded, base, file, path, chain, depth)

    def _admit(self, node: _Node, path: FieldPath, depth: int, nodes: int = 1) -> None:
        self._nodes += nodes
        if depth > MAX_DEPTH + 1:
            raise _error(f"must be nested at most {MAX_DEPTH} deep", node.at, path)
        if self._nodes > MAX_NODES:
            raise _error(f"a configuration must hold at most {MAX_NODES:,} values, bases included", node.at, path)

    def _expand_file(self, file: Path, path: FieldPath, chain: tuple[Path, ...], depth: int) -> _Node:
        """The expanded top-level mapping of a file; done once, counted every time."""
        if file not in self._expanded:
            before = self._nodes
            node = self.expand(self.read(file), file, path, chain, depth)
            self._expanded[file] = (node, self._nodes - before, _height(node))
            return node
        node, nodes, height = self._expanded[file]
        self._admit(node, path, depth + height, nodes)
        return node

    def _inherit(
        self, own: _Node, base: _Node, file: Path, path: FieldPath, chain: tuple[Path, ...], depth: int
    ) -> _Node:
        at, here = base.at, (*path, "base")
        if not isinstance(base.value, str):
            raise _error(f"must be the name of a file, not {_given(_plain(base))}", at, here)
        parent = self._bases.get((file, base.value)) or self._find_base(base.value, file, at, here)
        self._bases[file, base.value] = parent
        files = (*chain, file)
        if self._identity(parent) in map(self._identity, files):
            names = " -> ".join(known.name for known in (*files, parent))
            raise _error(f"files must not inherit from each other in a circle: {names}", at, here)
        if len(files) > MAX_BASES:
            raise _error(f"at most {MAX_BASES} files must inherit from each other in a row", at, here)
        return _merge(self._expand_file(parent, path, files, depth), own)

    def _find_base(self, name: str, file: Path, at: Position, path: FieldPath) -> Path:
        folders = (file.parent, *self._search)
        names = (name,) if name.endswith((".yaml", ".yml")) else (name, f"{name}.yaml")
        found = [folder / each for folder in folders for each in names if _is_file(folder / each)]
        if not found:
            choices = sorted(set(_names_below(self._search)))
            raise _error(
                f"must name a file beside {file.name or 'the working directory'} or one of "
                f"{', '.join(choices) or '(none shipped)'}, not {name!r}{did_you_mean(name, choices)}",
                at,
                path,
            )
        others = [each for each in found if self._identity(each) != self._identity(file)]
        return others[0] if others else found[0]


def _real_path(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _names_below(folders: Iterable[Path]) -> Iterator[str]:
    for folder in folders:
        for path in folder.glob("**/*.yaml"):
            yield path.relative_to(folder).with_suffix("").as_posix()


def _read_file(path: Path) -> _Node:
    at = Position(str(path))
    node = _Reader(_read_text(path, at), str(path)).read()
    if node is None:
        raise _error("the file must hold a mapping; it is empty", at)
    if not isinstance(node.value, dict):
        raise _error(f"the file must hold a mapping, not {_given(_plain(node))}", node.at)
    return node


def _read_text(path: Path, at: Position) -> str:
    try:
        if path.is_dir():
            raise _error("must be a file, not a folder", at)
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _error("the file must exist", at) from None
    except (OSError, ValueError) as error:
        raise _error(f"the file must be readable: {getattr(error, 'strerror', None) or error}", at) from None
    if len(content) > MAX_BYTES:
        raise _error(f"the file must have at most {MAX_BYTES:,} bytes", at)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _error("the file must be UTF-8 text", Position(at.file, line)) from None


def _height(node: _Node) -> int:
    """Levels of mappings and lists below a value."""
    if isinstance(node.value, dict):
        return 1 + max((_height(entry.node) for entry in node.value.values()), default=-1)
    return 1 + max(map(_height, node.value), default=-1) if isinstance(node.value, list) else 0


def _merge(under: _Node, over: _Node) -> _Node:
    """``over``, completed by what only ``under`` has."""
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(under.value)
    for key, entry in over.value.items():
        inherited = merged.get(key)
        keep = inherited is None or entry.node.closed
        merged[key] = entry if keep or inherited is None else _Entry(entry.key, _merge(inherited.node, entry.node))
    return _Node(merged, over.at, closed=over.closed)


def _flatten(
    node: _Node, path: FieldPath, positions: dict[FieldPath, Position], keys: dict[FieldPath, Position]
) -> Any:
    positions.setdefault(path, node.at)
    if isinstance(node.value, list):
        return [_flatten(item, (*path, index), positions, keys) for index, item in enumerate(node.value)]
    if not isinstance(node.value, dict):
        return node.value
    data = {}
    for key, entry in node.value.items():
        keys[*path, key] = entry.key
        if isinstance(entry.node.value, dict | list):
            positions[*path, key] = entry.key
        data[key] = _flatten(entry.node, (*path, key), positions, keys)
    return data


def _plain(node: _Node) -> Any:
    return _flatten(node, (), {}, {})


# ---------------------------------------------------------------------------------------------------- command line


def apply_overrides(
    tree: Tree,
    overrides: Iterable[tuple[str, str]],
    *,
    model: type[BaseModel] | None = None,
    prefix: str = "",
    search: Sequence[Path] | None = None,
) -> Tree:
    """A new tree in which the value at each dotted path is replaced by YAML text; list indices count from 0.

    A mapping that is left out in the file but known to ``model`` (such as one with a default) is made. The position
    of a replaced value is ``--set prefix.path=text``. A ``base`` in the text is looked for in the working directory,
    then in ``search``.

    Raises:
        ConfigError: the text is not YAML, the mapping or list around the value does not exist, or ``model`` has no
            such field; the message starts with the option.
    """
    data, positions, keys = copy.deepcopy(tree.data), dict(tree.positions), dict(tree.keys)
    files = list(tree.files)
    for path_text, value_text in overrides:
        option = Position(f"--set {prefix}{'.' if prefix else ''}{path_text}={value_text}")
        loader = _Loader(shipped_folders() if search is None else search)
        read = _Reader(value_text, option.file, marks=False).read()
        node = _Node(None, option) if read is None else loader.expand(read, Path())
        path = _place(data, path_text, model, option)
        for places in (positions, keys):
            for below in [known for known in places if known[: len(path)] == path]:
                del places[below]
        value = _flatten(node, path, positions, keys)
        keys[path] = option
        for above in range(1, len(path)):
            positions.setdefault(path[:above], option)
            keys.setdefault(path[:above], option)
        _parent(data, path)[path[-1]] = value
        files += [file for file in loader.tree(_Node({}, option)).files if file not in files]
    return Tree(data, positions, keys, tuple(files))


def _parent(data: Any, path: FieldPath) -> Any:
    for part in path[:-1]:
        data = data[part]
    return data


def _place(data: dict[str, Any], text: str, model: type[BaseModel] | None, option: Position) -> FieldPath:
    """The field path that dotted text means; mappings on the way that the model knows are made."""
    parts = text.split(".")
    here: Any = data
    known = [] if model is None else [model]
    path: FieldPath = ()
    for number, part in enumerate(parts):
        step = _step(here, part, path, known, option)
        path = (*path, step)
        inner = _types_below(known, step, here)
        if number == len(parts) - 1:
            break
        if isinstance(here, dict) and here.get(part) is None:
            made = _absent(known, step, inner)
            if made is None:
                raise _error(f"{dotted(path)!r} must be a mapping or a list, and it is not given", option)
            here[part] = made
        here, known = here[step], inner
    return path


def _step(here: Any, part: str, path: FieldPath, known: list[Any], option: Position) -> str | int:
    """One part of a dotted path as a key or an index of ``here``."""
    if isinstance(here, list):
        if not (part.isdecimal() and int(part) < len(here)):
            raise _error(f"the index in {dotted(path)!r} must be from 0 to {len(here) - 1}, not {part!r}", option)
        return int(part)
    if not isinstance(here, dict):
        raise _error(f"{dotted(path)!r} must be a mapping or a list to have {part!r}, not {_given(here)}", option)
    if part not in here and known and not _is_open(known):
        fields = _field_names(known, here)
        if part not in fields:
            raise _error(_unknown_key(part, fields), option)
    elif not part:
        raise _error("a path must be names and indices with a dot between, such as 'dram.channels'", option)
    return part


def _absent(known: list[Any], field: str | int, inner: list[Any]) -> dict[str, Any] | None:
    """What stands for a mapping that the file leaves out: the model's default, or an empty one; None if unknown."""
    for model in _models(known):
        default: Any = model.model_fields[str(field)].get_default(call_default_factory=True)
        if hasattr(default, "model_dump"):
            return dict(default.model_dump(mode="json", exclude_unset=True))
    return {} if _models(inner) or _is_open(inner) else None


# ------------------------------------------------------------------------------------------------------ model types


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself; annotations and None are left out."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [each for member in typing.get_args(annotation) for each in _alternatives(member)]
    return [] if annotation is type(None) else [annotation]


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    return [each for each in annotations if hasattr(each, "model_fields")]


def _is_open(annotations: Iterable[Any]) -> bool:
    """Whether any key may be given."""
    return any(_origin(each) in (dict, Mapping) for each in annotations)


def _origin(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation


def _types_below(annotations: Iterable[Any], step: str | int, data: Any) -> list[Any]:
    """Types that the value under a key or an index may have."""
    found: list[Any] = []
    annotations = list(annotations)
    for model in _fitting(_models(annotations), data):
        if step in model.model_fields:
            found += _alternatives(model.model_fields[str(step)].annotation)
    for each in annotations:
        arguments = typing.get_args(each)
        if arguments and _origin(each) in (dict, Mapping, list, tuple, Sequence):
            found += _alternatives(arguments[1 if _origin(each) in (dict, Mapping) else 0])
    return found


def _fitting(models: list[type[BaseModel]], data: Any) -> list[type[BaseModel]]:
    """The models whose literal fields agree with the data, or all of them if none does."""

    def fits(model: type[BaseModel]) -> bool:
        return isinstance(data, dict) and all(
            data[name] in typing.get_args(field.annotation)
            for name, field in model.model_fields.items()
            if typing.get_origin(field.annotation) is Literal and isinstance(data.get(name), str)
        )

    return [model for model in models if fits(model)] or models


def _field_names(annotations: Iterable[Any], data: Any) -> list[str]:
    names = [name for model in _fitting(_models(annotations), data) for name in model.model_fields]
    return list(dict.fromkeys(names))


def _unknown_key(key: str, fields: list[str]) -> str:
    close = did_you_mean(key, fields)
    return f"unknown key {key!r}{close}{'' if close else ';'} the keys are {', '.join(fields)}"


# -------------------------------------------------------------------------------------------------------- validation

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "none_required": "null",
}
_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_NUMBER_AND_UNIT = re.compile(r"[-+]?[0-9][0-9.,_]*([eE][-+]?[0-9]+)?\s*[A-Za-z%µ°][\w/%µ°^-]*")


def validate(tree: Tree, model: type[M]) -> M:
    """The model that the tree describes.

    Raises:
        InvalidConfig: a value is wrong. It is the first one in the order of the file, missing keys last (a misspelt
            key makes another one missing); ``error.others`` has the rest.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(tree.data)
    except ValidationError as error:
        complaints = _complaints(tree, model, error.errors(include_url=False))
    raise InvalidConfig(complaints[0], complaints[1:])


def _complaints(tree: Tree, model: type[BaseModel], details: Iterable[ErrorDetails]) -> list[ConfigError]:
    every = list(details)
    meant = [detail for detail in every if _locate(tree.data, model, detail)[1]] or every
    groups: dict[tuple[FieldPath, bool], list[ErrorDetails]] = {}
    for detail in meant:
        missing = detail["type"] == "missing"
        path = _locate(tree.data, model, detail)[0] + detail["loc"][-1:] * missing
        groups.setdefault((path, missing), []).append(detail)
    order = {str(file): index for index, file in enumerate(tree.files)}
    found = []
    for (path, missing), group in groups.items():
        error = _complaint(tree, model, path, group)
        rank = (missing, order.get(str(error.file), -1), error.line or 0, error.column or 0)
        found.append((rank, error))
    return [error for _, error in sorted(found, key=lambda pair: pair[0])]


def _locate(data: Any, model: type[BaseModel], detail: ErrorDetails) -> tuple[FieldPath, bool]:
    """The values that a pydantic location names, without tags of unions, and whether the members tagged are meant."""
    path: list[str | int] = []
    known: list[Any] = [model]
    meant = True
    for part in detail["loc"][:-1] if detail["type"] == "missing" else detail["loc"]:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            path.append(part)
            known, data = _types_below(known, part, data), data[part]
        elif tagged := [each for each in _models(known) if each.__name__ == part]:
            meant = meant and tagged[0] in _fitting(_models(known), data)
            known = tagged
    return tuple(path), meant


def _complaint(tree: Tree, model: type[BaseModel], path: FieldPath, group: list[ErrorDetails]) -> ConfigError:
    here: Any = tree.data
    known: list[Any] = [model]
    around, holder = known, here
    for part in path:
        around, holder = known, here
        known = _types_below(known, part, here)
        here = here[part] if not isinstance(here, dict) or part in here else None
    kind = group[0]["type"]
    if kind == "missing":
        return tree.error(f"must have the key {path[-1]!r}", path[:-1])
    if kind == "extra_forbidden":
        at = tree.keys.get(path, tree.position(path))
        return _error(_unknown_key(str(path[-1]), _field_names(around, holder)), at, path)
    return tree.error(_wrong_value(group, here, known), path)


def _wrong_value(group: list[ErrorDetails], given: Any, known: list[Any]) -> str:
    choices = [choice for each in known if typing.get_origin(each) is Literal for choice in typing.get_args(each)]
    for detail in group:
        if detail["type"] not in _EXPECTED and not (choices and detail["type"] == "literal_error"):
            return _broken_rule(detail, given)
    phrases = dict.fromkeys(_EXPECTED[detail["type"]] for detail in group if detail["type"] in _EXPECTED)
    if "a number" in phrases:
        phrases.pop("a whole number", None)
    if choices:
        phrases[f"one of {', '.join(map(str, choices))}"] = None
    close = did_you_mean(given, map(str, choices)) if isinstance(given, str) else ""
    wanted = " or ".join(phrases) + _advice(phrases, given)
    return f"must be {wanted}, not {_given(given)}{close or _remedy(phrases, given)}"


def _broken_rule(detail: ErrorDetails, given: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        limit = context[key]
        bound = int(limit) if limit == int(limit) else limit
        return f"must be {words} {bound}, not {_given(given)}"
    if kind == "finite_number":
        return f"must be finite, not {_given(given)}"
    if kind in ("too_short", "too_long"):
        count = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"must have {count} entries, not {context['actual_length']}"
    if kind == "union_tag_invalid":
        choices = [choice.strip("'\" ") for choice in str(context["expected_tags"]).split(",")]
        tag, key = str(context["tag"]), str(context["discriminator"]).strip("'")
        return f"key {key!r} must be one of {', '.join(choices)}, not {tag!r}{did_you_mean(tag, choices)}"
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    return detail["msg"].replace("Input should", "must", 1) + f", not {_given(given)}"


def _advice(phrases: Mapping[str, None], given: Any) -> str:
    wants_number = any("number" in phrase for phrase in phrases) and "text" not in phrases
    if wants_number and isinstance(given, str) and _NUMBER_AND_UNIT.fullmatch(given):
        return " without a unit (the unit is in the key's name)"
    return ""


def _remedy(phrases: Mapping[str, None], given: Any) -> str:
    if "a whole number" in phrases and isinstance(given, float) and given.is_integer():
        return f"; write {given:.0f}"
    if "text" in phrases and isinstance(given, int | float):
        return "; put it in quotes"
    if isinstance(given, str) and "text" not in phrases and _is_number(given):
        return "; leave out the quotes"
    return ""


def _is_number(text: str) -> bool:
    try:
        return isinstance(resolve_scalar(text), int | float)
    except ValueError:
        return False


def _given(value: Any) -> str:
    """What was given, in a few words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value) if isinstance(value, str) else _scalar_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ----------------------------------------------------------------------------------------------------------- writing

_PLAIN = re.compile(r"[A-Za-z_](?:[\w ./()+*^=<>@$%-]*[\w./()+*^=<>@$%-])?", re.ASCII)
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "null", "true", "false"})
_WIDTH = 100


def dump(data: Any, comment: Callable[[FieldPath], str] | None = None) -> str:
    """The canonical YAML text of plain data: block style, short lists of scalars in one line.

    ``comment`` gives the text to put behind a scalar, or an empty string.

    >>> print(dump({"name": "x", "levels": {"bank": 16}, "next": ["RD", "WR"]}), end="")
    name: x
    levels:
      bank: 16
    next: [RD, WR]
    """
    remark = comment or (lambda path: "")
    if isinstance(data, dict | list) and data:
        return "\n".join(_block(data, (), 0, remark)) + "\n"
    return _flow(data) + _remark((), remark) + "\n"


def _block(
    data: dict[str, Any] | list[Any], path: FieldPath, indent: int, remark: Callable[[FieldPath], str]
) -> Iterator[str]:
    pad = " " * indent
    pairs: Iterable[tuple[str | int, Any]] = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in pairs:
        here = (*path, key)
        head = f"{pad}-" if isinstance(data, list) else f"{pad}{_scalar_text(str(key))}:"
        line = _line(value, here, in_list=isinstance(data, list), remark=remark)
        if line is not None:
            yield f"{head} {line}"
        elif isinstance(data, list):
            first, *rest = _block(value, here, indent + 2, remark)
            yield f"{head} {first[indent + 2 :]}"
            yield from rest
        else:
            yield head
            yield from _block(value, here, indent + 2, remark)


def _line(value: Any, path: FieldPath, *, in_list: bool, remark: Callable[[FieldPath], str]) -> str | None:
    """The value and its comment in one line, or None if it needs several."""
    if isinstance(value, dict | list) and value:
        nested = isinstance(value, dict) or any(isinstance(item, dict | list) for item in value)
        if nested and not in_list:
            return None
        text, remarks = _flow(value), {_remark(leaf, remark) for leaf in _leaves(value, path)}
        fits = len(text) <= _WIDTH and len(remarks - {""}) <= 1
        return text + "".join(remarks) if fits else None
    return _flow(value) + _remark(path, remark)


def _remark(path: FieldPath, remark: Callable[[FieldPath], str]) -> str:
    text = " ".join(remark(path).split())
    return f"  # {text}" if text else ""


def _leaves(value: Any, path: FieldPath) -> Iterator[FieldPath]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, key))
    else:
        yield path


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar_text(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar_text(value)


def _scalar_text(value: Scalar) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if plain else _quoted(value)
    if isinstance(value, float):
        return ".nan" if value != value else repr(value).replace("inf", ".inf")
    return json.dumps(value)


def _quoted(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
