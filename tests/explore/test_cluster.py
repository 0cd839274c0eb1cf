"""A real Dask scheduler with two worker processes on this computer, one of which is killed in mid-sweep."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from test_sweep import TINY, tables

from pimsim import sweep

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
