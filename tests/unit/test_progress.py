"""What a long sweep says while it runs: done and in all, rate, time left, failures."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from pimsim.commands import progress


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("points", quiet=False) as report:
        assert report is not None
        report(0, 200, 0)
        for done, failed in ((10, 0), (20, 1), (40, 2)):
            clock.now += 5
            report(done, 200, failed)
        clock.now += 5
        report(60, 200, 2)
    assert capsys.readouterr().err == (
        "20 of 200 points, 10 s, 2.0/s, 1 min 30 s left, 1 failed\n60 of 200 points, 20 s, 3.0/s, 47 s left, 2 failed\n"
    )


def test_what_an_earlier_run_has_done_took_no_time_of_this_one(clock: Clock, capsys: Any) -> None:
    with progress.progress("points", quiet=False) as report:
        assert report is not None
        report(150, 200, 3)
        clock.now += 10
        report(160, 200, 3)
    assert capsys.readouterr().err == (
        "150 of 200 points, 0 s, 3 failed\n160 of 200 points, 10 s, 1.0/s, 40 s left, 3 failed\n"
    )


def test_a_bar_on_a_terminal_says_the_same(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.progress("points", quiet=False) as report:
        assert report is not None
        report(0, 200, 0)
        clock.now += 10
        report(20, 200, 1)
    text = terminal.getvalue()
    assert "20/200" in text
    assert "2.0/s, 1 min 30 s left, 1 failed" in text


def test_quiet_is_quiet(capsys: Any) -> None:
    with progress.progress("points", quiet=True) as report:
        assert report is None
    assert capsys.readouterr().err == ""
