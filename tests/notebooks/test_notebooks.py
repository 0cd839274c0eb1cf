"""Every notebook runs from top to bottom in a real kernel; its assertions hold, and its figures and printed lines are there."""

import base64
import os
import re
import resource
import struct
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPECTED = {
    "quick_tour": (1, r"cycles, \d+\.\d us per token"),
    "pim_gpt": (4, r"us at context 64, \d+\.\d+ us at 8,192"),
    "edge_moe": (3, r"all techniques: \d+\.\dx here, 18\.8x in the paper"),
    "attention": (2, r"CMAB is the fastest of cmab, vanilla, flash and topk from context \d+"),
    "design_space": (2, r"\d+ of 36 machines run"),
    "extend": (1, r"COPY_AB', 13\).*PREab', 29"),
}
"""Notebook -> (figures, what it prints somewhere)."""


def test_every_notebook_is_expected():
    assert {path.stem for path in NOTEBOOKS} == set(EXPECTED)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_it_should(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(ROOT))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [base64.b64decode(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    figures, words = EXPECTED[path.stem]
    assert len(pictures) == figures
    for picture in pictures:  # wide enough for print, and more than an empty frame
        width, height = struct.unpack(">II", picture[16:24])
        assert width > 400
        assert height > 200
        assert len(picture) > 8_000
    assert re.search(words, printed), printed


def test_all_of_them_take_less_than_five_minutes_of_cpu_time():
    """Kernels are children that have ended; other programs beside the tests do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime < 300
