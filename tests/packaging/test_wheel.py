"""What a user installs: the wheel holds the package and every shipped configuration, and works from any folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("arch_configs", "sweeps", "workloads")
UNREACHABLE = ("No matching distribution found for hatchling", "Temporary failure in name resolution")
"""What pip says when it cannot fetch the build back end; any other failure is a failure of the test."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not a source tree")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode and any(text in done.stderr for text in UNREACHABLE):
        pytest.skip("hatchling is neither cached nor reachable")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def files(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder.parent).as_posix() for path in folder.rglob(pattern)}


def test_the_wheel_holds_the_package_and_every_shipped_configuration(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    kinds = ("*.yaml", "*.zip", "*.txt")
    shipped = {f"pimsim/shipped/{name}" for folder in SHIPPED for kind in kinds for name in files(ROOT / folder, kind)}
    assert {Path(name).suffix for name in shipped} == {".yaml", ".zip", ".txt"}
    assert files(ROOT / "pimsim", "*.py") <= held
    assert {name for name in held if name.startswith("pimsim/shipped/")} == shipped


def test_the_wheel_holds_licence_and_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (command,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "pimsim = pimsim.cli:main" in archive.read(command).decode()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_installed_package_finds_its_configurations_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import pimsim; "
        "print(pimsim.load_arch('pim_gpt').path, pimsim.load_workload('gpt2_decode').value.name)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=elsewhere)
    path, name = done.stdout.split()
    assert Path(path) == site / "pimsim" / "shipped" / "arch_configs" / "pim_gpt.yaml"
    assert name == "gpt2_decode"
