"""What `import pimsim` offers and costs, and two habits of all modules: docstrings and short functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pimsim
from pimsim import errors

ROOT = Path(pimsim.__file__).parent
LONGEST = 70
"""Lines of a function, docstring included."""

EXPORTS = {"PimsimError", "Result", "__version__", "load_arch", "load_workload", "simulate", "sweep"}
HEAVY = {"numpy", "pydantic", "networkx", "simpy", "yaml", "typer", "rich", "matplotlib", "pandas"}


def fresh(code: str) -> str:
    """Standard output of a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return done.stdout.strip()


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT.parent).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_exports_are_exactly_these() -> None:
    assert set(pimsim.__all__) == EXPORTS
    assert pimsim.__all__ == sorted(pimsim.__all__)
    assert {*pimsim._HOMES, "__version__"} == EXPORTS


@pytest.mark.parametrize("export", sorted(EXPORTS - {"__version__"}))
def test_an_export_is_the_object_of_its_module(export: str) -> None:
    value = getattr(pimsim, export)
    assert value is getattr(sys.modules[pimsim._HOMES[export]], export)
    assert value.__module__ == pimsim._HOMES[export]


def test_star_import_gives_the_exports() -> None:
    space: dict[str, object] = {}
    exec("from pimsim import *", space)  # noqa: S102
    assert set(space) >= EXPORTS


def test_exports_are_listed_before_they_are_loaded() -> None:
    assert fresh("import pimsim; print(set(pimsim.__all__) <= set(dir(pimsim)))") == "True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'pimsim' has no attribute 'simulat'"):
        pimsim.simulat  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    loaded = fresh("import sys, pimsim; print(' '.join(m.split('.')[0] for m in sys.modules))").split()
    assert HEAVY.isdisjoint(loaded)


def test_import_takes_less_than_50_ms() -> None:
    code = "import time; t = time.perf_counter(); import pimsim; print(time.perf_counter() - t)"
    assert min(float(fresh(code)) for _ in range(5)) < 0.05


def test_version_is_that_of_the_project() -> None:
    project = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{pimsim.__version__}"\n' in project


@pytest.mark.parametrize("path", files(), ids=name)
def test_every_module_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or path.name == "__main__.py"


def test_every_folder_is_a_package_with_a_docstring() -> None:
    for folder in {path.parent for path in files()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder.name


@pytest.mark.parametrize("path", files(), ids=name)
def test_no_function_is_too_long(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = [f"{f.name}: {f.end_lineno - f.lineno + 1} lines" for f in functions(tree) if too_long(f)]
    assert long == []


def too_long(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 > LONGEST


def test_the_exception_tree_in_the_docstring_is_the_tree() -> None:
    tree = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    for kind in tree:
        assert issubclass(kind, pimsim.PimsimError)
        assert kind.__name__ in (errors.__doc__ or "")
