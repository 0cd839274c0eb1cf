"""What several tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_gguf import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with a tiny GPT-2."""
    pytest.importorskip("gguf", reason="writes the model")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path)
    return path
