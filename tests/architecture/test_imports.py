"""Who may import whom, and which module is the only door to a third-party library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pimsim

ROOT = Path(pimsim.__file__).parent

FLOOR = {"errors", "extras", "registry", "model", "yamlio", "jsonio", "lines"}
FACTS = FLOOR | {"arch", "workload", "loaded", "checks", "config"}
READERS = FACTS | {"catalog", "schema", "show", "result", "run", "runners", "validation", "trace", "analysis", "report"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "names": {"errors"},
    "registry": {"errors"},
    "model": set(),
    "yamlio": {"errors"},
    "jsonio": {"errors"},
    "lines": {"errors"},
    "extras": {"errors"},
    "traffic": FLOOR,
    "arch": FLOOR | {"traffic"},
    "workload": FLOOR | {"traffic"},
    "trace": {"errors", "lines", "names"},
    "program": {"errors", "arch"},
    "bounds": {"errors", "arch", "workload"},
    "mapper": FLOOR | {"arch", "workload", "program", "bounds"},
    "machine": FLOOR | {"arch", "program", "trace", "traffic"},
    "functional": FLOOR | {"arch", "workload", "program", "trace"},
    "analysis": FLOOR | {"arch", "trace", "bounds", "catalog"},
    "report": FLOOR | {"analysis", "result", "trace"},
    # top-level modules
    "catalog": {"errors", "yamlio"},
    "loaded": FLOOR,
    "checks": FLOOR | {"arch", "workload", "loaded"},
    "config": FLOOR | {"arch", "workload", "loaded", "checks", "catalog"},
    "schema": FACTS | {"explore"},
    "show": FACTS,
    "result": FACTS | {"analysis", "trace", "report"},  # the plot methods, at call time
    "runners": FACTS
    | {"traffic", "mapper", "machine", "functional", "session", "program", "bounds", "trace", "analysis", "result"},
    "session": FACTS | {"mapper", "functional", "program"},
    "meter": FACTS | {"machine", "program", "analysis"},
    "run": FACTS | {"result", "runners"},
    "generate": FACTS,
    "plan": FACTS,
    "quality": FACTS | {"catalog", "compare", "run"},
    "compare": FACTS | {"result", "run", "runners", "analysis"},
    "validation": FACTS
    | {"catalog", "analysis", "bounds", "compare", "functional", "machine", "result", "run", "runners", "trace"},
    "explore": FACTS | {"catalog", "run", "runners", "result"},
    "commands": READERS
    | {"program", "mapper", "machine", "functional", "explore", "quality", "session", "meter", "generate", "compare"}
    | {"plan"},
    "cli": {"errors", "commands"},
    "__main__": {"cli"},
    "__init__": {"errors", "config", "explore", "result", "run"},
}
"""Package or top-level module -> what it may import of pimsim besides itself. A name without a file may come later."""

EXCEPTIONS = {
    ("pimsim/commands/traces.py", "machine.replay"): "`replay` is this module and nothing else",
}
"""The command line stays outside of machine, mapper and functional; these are the ways in."""

INSIDE = {"machine", "mapper", "functional"}

DOORS: dict[str, tuple[str, ...]] = {
    "simpy": ("pimsim/machine/kernel.py",),
    "yaml": ("pimsim/yamlio.py",),
    "networkx": ("pimsim/workload/graph.py",),
    "matplotlib": ("pimsim/report/",),
    "vcd": ("pimsim/report/timeline/sinks.py",),
    "numpy": (
        "pimsim/functional/",
        "pimsim/generate.py",
        "pimsim/workload/reference.py",
        "pimsim/workload/encoder_reference.py",
        "pimsim/workload/attention/",
        "pimsim/workload/networks/reference.py",
        "pimsim/quality.py",
        "pimsim/session.py",
        "pimsim/workload/sequence.py",
        "pimsim/workload/importers/",
        "pimsim/report/",
        "pimsim/analysis/measure.py",
    ),
    "torch": ("pimsim/analysis/measure.py",),
    "pandas": ("pimsim/report/", "pimsim/explore/"),
    "ml_dtypes": ("pimsim/functional/",),
    "gguf": ("pimsim/workload/importers/gguf.py",),
    "tokenizers": ("pimsim/workload/importers/vocabulary.py", "pimsim/workload/importers/bert.py"),
    "safetensors": ("pimsim/workload/importers/bert.py",),
    "pyarrow": ("pimsim/explore/store.py", "pimsim/report/frames.py"),
    "optuna": ("pimsim/explore/search.py",),
    "distributed": ("pimsim/explore/engine.py",),
    "typer": ("pimsim/cli.py", "pimsim/commands/"),
    "rich": ("pimsim/report/", "pimsim/commands/", "pimsim/cli.py"),
}
"""Third-party library -> the files and folders that may import it."""

EVERYWHERE = {"pydantic", "pydantic_core"}
"""Used for models in the floor and for facts; the hot packages stay free of it, see `PLAIN`."""

PLAIN = {"machine", "program", "trace", "mapper", "bounds", "functional"}
"""Packages without pydantic."""


def modules() -> list[str]:
    return sorted(f"pimsim/{path.relative_to(ROOT).as_posix()}" for path in ROOT.rglob("*.py"))


def package(module: str) -> str:
    """``pimsim/machine/fast.py`` -> ``machine``, ``pimsim/run.py`` -> ``run``."""
    return module.split("/")[1].removesuffix(".py")


def imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports at any level; ``from x import y`` names a submodule y."""
    tree = ast.parse((ROOT.parent / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module}:{node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield node.lineno, name if exists(name) else node.module
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            assert node.args, f"{module}:{node.lineno}: an import must name its module"
            if isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def exists(name: str) -> bool:
    """Whether a dotted name is a module of pimsim (and not something that a module defines)."""
    if not name.startswith("pimsim."):
        return False
    path = ROOT.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def own(module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name below pimsim) of imports of pimsim itself."""
    for line, name in imports(module):
        if name.startswith("pimsim."):
            yield line, name.removeprefix("pimsim.")


def foreign(module: str) -> Iterator[tuple[int, str]]:
    """(line, library) of third-party imports."""
    for line, name in imports(module):
        top = name.split(".")[0]
        if top != "pimsim" and top not in sys.stdlib_module_names:
            yield line, top


def test_every_module_has_a_row() -> None:
    assert {package(module) for module in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", modules())
def test_imports_only_what_lies_below(module: str) -> None:
    me = package(module)
    wrong = [
        f"{module}:{line}: {me} may not import {name}"
        for line, name in own(module)
        if name.split(".")[0] not in MAY_IMPORT[me] | {me}
    ]
    assert wrong == []


@pytest.mark.parametrize("module", modules())
def test_third_party_libraries_have_doors(module: str) -> None:
    wrong = [
        f"{module}:{line}: {library} may be imported only in {', '.join(DOORS.get(library, ('(nowhere)',)))}"
        for line, library in foreign(module)
        if library not in EVERYWHERE and not module.startswith(DOORS.get(library, ("(nowhere)",)))
    ]
    assert wrong == []


@pytest.mark.parametrize("module", [m for m in modules() if package(m) in PLAIN])
def test_hot_packages_are_free_of_pydantic(module: str) -> None:
    assert [line for line, library in foreign(module) if library in EVERYWHERE] == []


def test_the_command_line_stays_outside() -> None:
    ways_in = {
        (module, name)
        for module in modules()
        if package(module) in {"commands", "cli"}
        for _, name in own(module)
        if name.split(".")[0] in INSIDE
    }
    assert ways_in <= set(EXCEPTIONS)


@pytest.mark.parametrize(
    ("upper", "forbidden"),
    [
        ("arch", {"workload", "program"}),
        ("workload", {"arch"}),
        ("program", {"workload", "mapper", "machine"}),
        ("bounds", {"machine"}),
        ("mapper", {"machine", "functional"}),
        ("machine", {"workload", "mapper", "functional", "analysis"}),
        ("functional", {"machine"}),
        ("analysis", {"machine", "mapper"}),
        ("run", {"report"}),
    ],
)
def test_the_table_keeps_what_must_stay_apart(upper: str, forbidden: set[str]) -> None:
    assert MAY_IMPORT[upper].isdisjoint(forbidden)


def test_legality_shares_no_code_with_the_calendar() -> None:
    names = {name for _, name in own("pimsim/analysis/legality.py")}
    assert names == {"arch.dram", "trace.csvio"}


def stops_or_prints(node: ast.AST) -> bool:
    """``print(...)``, ``exit(...)``, ``sys.exit(...)`` and the like, but not the ``print`` of a rich console."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in {"exit", "_exit"} or ast.unparse(node.func) in {"sys.stdout.write", "sys.stderr.write"}
    return called(node) in {"print", "exit", "quit"}


@pytest.mark.parametrize("module", [m for m in modules() if package(m) not in {"cli", "commands", "__main__"}])
def test_only_the_command_line_prints_and_exits(module: str) -> None:
    tree = ast.parse((ROOT.parent / module).read_text(encoding="utf-8"))
    assert [f"{module}:{node.lineno}" for node in ast.walk(tree) if stops_or_prints(node)] == []


def test_the_collector_sees_imports_inside_functions() -> None:
    assert "program.order" in {name for _, name in own("pimsim/program/isa.py")}
