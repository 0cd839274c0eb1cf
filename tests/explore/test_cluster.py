"""A real Dask scheduler with two worker processes on this computer, one of which is killed in mid-sweep."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cli_tools import ROOT
from test_sweep import TINY, tables

from pimsim import sweep
from pimsim.errors import SimulationError

distributed = pytest.importorskip("distributed")


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY, encoding="utf-8")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", silence_logs=50
    ) as cluster:
        victim = next(iter(cluster.workers.values())).pid

        def kill(done: int, *_: int) -> None:
            if done == 5:
                os.kill(victim, signal.SIGKILL)

        result = sweep(file, out=tmp_path / "cluster", scheduler=cluster.scheduler_address, progress=kill)
    assert (result.done, result.failed) == (36, 0)
    sweep(file, out=tmp_path / "here")
    assert tables(tmp_path / "cluster") == tables(tmp_path / "here")


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of distributed in a process of its own."""
    command = [sys.executable, "-m", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.filterwarnings("ignore")
def test_a_lost_scheduler_is_an_error_and_the_sweep_goes_on_without_it(tmp_path: Path) -> None:
    """Scheduler and workers as a cluster has them: one worker is killed, then the scheduler."""
    file, told = tmp_path / "tiny.yaml", tmp_path / "scheduler.json"
    file.write_text(TINY, encoding="utf-8")
    with ExitStack() as stack:
        boss = stack.enter_context(
            program("distributed.cli.dask_scheduler", "--port", "0", "--scheduler-file", str(told))
        )
        while not told.exists():
            assert boss.poll() is None
            time.sleep(0.05)
        address = json.loads(told.read_text(encoding="utf-8"))["address"]
        worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--death-timeout", "5")
        first, _ = (stack.enter_context(program(*worker)) for _ in range(2))

        def kill(done: int, *_: int) -> None:
            if done == 4:
                first.send_signal(signal.SIGKILL)
            if done == 8:
                boss.send_signal(signal.SIGKILL)

        message = (
            rf"^--scheduler {re.escape(address)}: must answer until the end, but was lost; finished points are stored"
        )
        with pytest.raises(SimulationError, match=message):
            sweep(file, out=tmp_path / "cluster", scheduler=address, progress=kill)
    kept = (tmp_path / "cluster" / "records-1-of-1.log").read_bytes().splitlines()
    assert 8 <= len(kept) < 36
    assert sweep(file, out=tmp_path / "cluster", resume=True).done == 36
    sweep(file, out=tmp_path / "here")
    assert tables(tmp_path / "cluster") == tables(tmp_path / "here")
