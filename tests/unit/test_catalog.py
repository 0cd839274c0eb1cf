"""Finding configurations by name or path."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimsim import catalog
from pimsim.errors import ConfigError, UnknownName


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shipped folders with a few files, and an empty working directory."""
    files = {
        "arch_configs/pim_gpt.yaml": "name: pim_gpt\ndescription: |\n  A machine\n  of two lines\n",
        "arch_configs/aim.yaml": "name: aim\n",
        "arch_configs/dram/gddr6.yaml": "name: gddr6\ndescription: memory\n",
        "arch_configs/baselines/t4.yaml": "name: t4\n",
        "workloads/gpt2.yaml": "name: gpt2\ndescription: 3\n",
    }
    for name, text in files.items():
        path = tmp_path / "shipped" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root = tmp_path / "shipped"
    monkeypatch.setattr(catalog, "shipped_folders", lambda: (root / "arch_configs", root / "workloads"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return root


def test_names_are_per_kind(shipped: Path) -> None:
    assert {kind: catalog.names(kind) for kind in catalog.KINDS} == {
        "arch": ["aim", "pim_gpt"],
        "baseline": ["t4"],
        "dram": ["gddr6"],
        "sweep": [],
        "workload": ["gpt2"],
    }


@pytest.mark.parametrize("name", ["pim_gpt", "pim_gpt.yaml", "pim_gpt.yml"])
def test_a_shipped_name_with_or_without_suffix(shipped: Path, name: str) -> None:
    assert catalog.find("arch", name) == shipped / "arch_configs" / "pim_gpt.yaml"


@pytest.mark.parametrize("name", ["gddr6", "gddr6.yaml", "dram/gddr6", "dram/gddr6.yaml"])
def test_a_memory_may_be_named_as_in_a_base(shipped: Path, name: str) -> None:
    assert catalog.find("dram", name) == shipped / "arch_configs" / "dram" / "gddr6.yaml"


def test_an_existing_path_wins(shipped: Path) -> None:
    Path("pim_gpt.yaml").write_text("name: mine\n")
    assert catalog.find("arch", "pim_gpt.yaml") == Path("pim_gpt.yaml")
    assert catalog.find("arch", "pim_gpt") == shipped / "arch_configs" / "pim_gpt.yaml"


def test_a_folder_does_not_hide_a_shipped_name(shipped: Path) -> None:
    Path("pim_gpt").mkdir()
    assert catalog.find("arch", "pim_gpt") == shipped / "arch_configs" / "pim_gpt.yaml"


def test_a_folder_is_no_configuration(shipped: Path) -> None:
    Path("runs").mkdir()
    with pytest.raises(ConfigError, match=r"^runs: must be a file, not a folder$"):
        catalog.find("arch", "runs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pim_gtp", r"^arch must be one of aim, pim_gpt, not 'pim_gtp'; did you mean 'pim_gpt'\?$"),
        ("pim_gtp.yaml", r"^arch must be one of aim, pim_gpt, not 'pim_gtp\.yaml'; did you mean 'pim_gpt'\?$"),
        ("dram/gddr6", r"^arch must be one of aim, pim_gpt, not 'dram/gddr6'$"),
        ("../arch_configs/aim", r"^arch must be one of aim, pim_gpt, not '\.\./arch_configs/aim'"),
        ("", r"^arch must be one of aim, pim_gpt, not ''$"),
        ("a\0b", r"^arch must be one of aim, pim_gpt, not 'a\\x00b'$"),
        ("x" * 5000, r"^arch must be one of aim, pim_gpt, not 'xxx"),
    ],
)
def test_an_unknown_name_lists_the_choices(shipped: Path, name: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        catalog.find("arch", name)


def test_an_unknown_kind(shipped: Path) -> None:
    with pytest.raises(UnknownName, match=r"^kind must be one of arch, baseline, dram, sweep, workload, not 'drum'"):
        catalog.names("drum")


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [("arch", "pim_gpt", "A machine"), ("arch", "aim", ""), ("dram", "gddr6", "memory"), ("workload", "gpt2", "")],
)
def test_a_description_is_its_first_line(shipped: Path, kind: str, name: str, text: str) -> None:
    assert catalog.describe(kind, name) == text


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_every_shipped_file_has_a_description(kind: str) -> None:
    assert catalog.names(kind)
    assert all(catalog.describe(kind, name) for name in catalog.names(kind))
