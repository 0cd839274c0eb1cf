"""Interrupts, full disks, folders of others; and every way in which a sweep file can vary something."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli_tools import ROOT
from test_sweep import TINY, tables

from pimsim import sweep
from pimsim.errors import InputError
from pimsim.explore.plan import load_plan

HEAD = TINY.partition("axes:")[0]
TAIL = "objectives: {latency: {value: seconds}}\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("troubles") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    return sweep(file, out=file.parent / "whole").folder


def command(file: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pimsim", "sweep", str(file), "--out", str(out), "--workers", "1", *more]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_says_how_to_go_on(tmp_path: Path, workers: str) -> None:
    """A real SIGINT while points are under way that take long enough for it to come in time."""
    out, file = tmp_path / "out", tmp_path / "slow.yaml"
    axes = "axes: {arch.dram.channels: [1, 2, 4, 8], workload.prompt_tokens: [40, 50, 60]}\n"
    file.write_text(HEAD + axes + TINY.partition("[100, 500, 1000]\n")[2], encoding="utf-8")
    slow = [*command(file, out), "--workers", workers]
    log = out / "records-1-of-1.log"
    with subprocess.Popen(
        slow,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (background shells ignore it)
    ) as child:
        while child.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.002)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert f"finished points are in {out}; go on with the same command and --resume\nerror: interrupted\n" in told
    assert "Traceback" not in told
    kept = log.read_bytes().splitlines()
    assert 0 < len(kept) < 12
    assert len(pq.read_table(out / "results.parquet")) == len(kept)
    again = subprocess.run(
        [*slow, "--resume"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert again.stdout == f"12 of 12 points in {out}, 0 failed\n"
    assert (
        f"{len(kept)} of 12 points, 0 s, 0 failed\n" in again.stderr
    )  # what is there already, before the first new one
    assert log.read_bytes().splitlines()[: len(kept)] == kept
    assert tables(out) == tables(sweep(file, out=tmp_path / "whole").folder)


@pytest.mark.parametrize("limit", [200, 9_000])
def test_a_full_disk_loses_nothing(file: Path, whole: Path, tmp_path: Path, limit: int) -> None:
    """Files that may not grow, as a disk that is full: the first limit lets not even the sweep be described."""
    out = tmp_path / "out"
    done = subprocess.run(
        command(file, out, "--quiet"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {out}: must be a folder that can be written (File too large); finished points are kept, "
        "go on with --resume\n"
    )
    assert [path.name for path in out.iterdir() if path.name.endswith(".part")] == []
    log = out / "records-1-of-1.log"
    kept = log.read_bytes().splitlines() if log.exists() else []
    assert bool(kept) == (limit > 2_000)
    assert sweep(file, out=out, resume=True).done == 36
    assert log.read_bytes().splitlines()[: len(kept)] == kept
    assert tables(out) == tables(whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(InputError, match=r"^.*out: must be a folder that can be written \(Permission denied\)"):
        sweep(file, out=out)


def test_a_file_in_place_of_the_folder_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"^.*out: must be a folder that can be written \(File exists\)"):
        sweep(file, out=tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_a_folder_with_other_files_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"^.*: must be empty or hold a sweep; it holds thesis\.txt$"):
        sweep(file, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == ["thesis.txt"]


def test_a_folder_of_another_version_is_refused(file: Path, tmp_path: Path) -> None:
    sweep(file, out=tmp_path, shard=(36, 36))
    manifest = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    manifest["manifest"]["version"] = "0.0.7"
    (tmp_path / "sweep.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"^.*: must be of pimsim \S+, not of 0\.0\.7; take another --out$"):
        sweep(file, out=tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in before} == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "pimsim.result/1"}'])
def test_a_folder_with_a_damaged_manifest_is_refused(file: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"^.*sweep\.json: must be the manifest of a sweep, of the form pimsim\.sweep/1$"
    ):
        sweep(file, out=tmp_path, resume=True)


def test_a_damaged_record_is_run_again(file: Path, whole: Path, tmp_path: Path) -> None:
    sweep(file, out=tmp_path)
    log = tmp_path / "records-1-of-1.log"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b'"seconds":', b'"secunds":')
    log.write_bytes(b"".join(lines))
    assert sweep(file, out=tmp_path, resume=True).done == 36
    assert tables(tmp_path) == tables(whole)


# Kinds of axes


def settings(tmp_path: Path, text: str) -> list[tuple[object, ...]]:
    """What each point of a sweep varies, without what it fixes."""
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + text + TAIL, encoding="utf-8")
    plan = load_plan(path)
    assert plan.count == len(list(plan.points()))
    return [tuple(point.setting[name] for name in plan.paths) for point in plan.points()]


def test_zipped_axes_advance_together_and_combine_with_the_rest(tmp_path: Path) -> None:
    text = """\
axes: {arch.asic.clock_mhz: [100, 500]}
zip: [{arch.dram.channels: [1, 2], workload.model.d_ff: [64, 128]}]
"""
    assert settings(tmp_path, text) == [(100, 1, 64), (500, 1, 64), (100, 2, 128), (500, 2, 128)]


def test_points_are_taken_one_after_the_other(tmp_path: Path) -> None:
    text = (
        "points: [{arch.dram.channels: 4, workload.model.d_ff: 64}, {arch.dram.channels: 1, workload.model.d_ff: 96}]\n"
    )
    assert settings(tmp_path, text) == [(4, 64), (1, 96)]


def test_derived_values_follow_their_expression(tmp_path: Path) -> None:
    text = """\
axes: {arch.dram.channels: [1, 2, 4]}
derived: {workload.model.d_ff: 64 * arch.dram.channels, arch.asic.adders: "max(32, workload.model.d_ff)"}
constraints: [arch.asic.adders != 128]
"""
    assert settings(tmp_path, text) == [(1, 64, 64), (4, 256, 256)]


def test_random_values_stay_in_their_ranges_and_follow_the_seed(tmp_path: Path) -> None:
    text = """\
random:
  samples: 40
  axes:
    arch.dram.channels: {choices: [1, 2]}
    workload.model.d_ff: {low: 64, high: 160, step: 32}
    arch.asic.clock_mhz: {low: 100.0, high: 1000.0, log: true}
    workload.prompt_tokens: {low: 1, high: 3}
"""
    drawn = settings(tmp_path, text)
    channels, widths, clocks, prompts = (set(column) for column in zip(*drawn, strict=True))
    assert (channels, widths, prompts) == ({1, 2}, {64, 96, 128, 160}, {1, 2, 3})
    assert len(clocks) == 40
    assert all(100 <= clock <= 1000 for clock in clocks)
    assert settings(tmp_path, text) == drawn
    assert settings(tmp_path, text + "seed: 1\n") != drawn


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "zip: [{arch.dram.channels: [1, 2], workload.model.d_ff: [64]}]\n",
            r".*zip\.0: must have lists of one length",
        ),
        (
            "points: [{arch.dram.channels: 1}, {workload.model.d_ff: 64}]\n",
            r".*points\.1: must set the same paths as",
        ),
        (
            "random: {samples: 2, axes: {arch.dram.channels: {low: 4, high: 1}}}\n",
            r".*: must have either choices, or low",
        ),
        ("", r".*must have axes, zip, points or random, so that there is something to vary$"),
        (
            "axes: {arch.dram.channels: [1]}\nderived: {arch.asic.adders: 2 * arch.dram.chanels}\n",
            r".*a name must be a field of the arch, not 'arch\.dram\.chanels'; did you mean 'channels'\?",
        ),
        (
            "axes: {arch.dram.channels: [1]}\npoints: [{arch.dram.channels: 2}]\n",
            r".*arch\.dram\.channels must be set in one place only$",
        ),
    ],
)
def test_axes_that_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(tmp_path, text)
