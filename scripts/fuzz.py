#!/usr/bin/env python
"""Fuzzing: damaged configurations, traces, model headers, sweep files and stores give a result or a clean error.

    scripts/fuzz.py --cases 100000 --seed 1        numbered cases; a case is repeated by its seed and number
    scripts/fuzz.py --seed 1 --only 4711           one case, with what it said
    scripts/fuzz.py --guided 600                   coverage-guided, for so many seconds (needs the package atheris)

Cases run in this order in processes of a thousand each, with an address space of 1 GB and a time limit for each case; a
process that hangs is killed and the case counted. What is wrong is printed, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pkgutil
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fuzz_cases

import pimsim

MEMORY = 1 << 30
"""Address space of a process in bytes."""
BATCH = 1000
SEEDS, LENGTH = 200, 512
"""Cases with which a guided run begins, and the bytes that a case of it is drawn from."""
HANGS_AFTER = 30 * fuzz_cases.SECONDS
"""Seconds without a finished case after which a process is killed."""


def numbered(seed: int, number: int) -> tuple[str, fuzz_cases.Case]:
    """Case ``number`` of a seed."""
    return fuzz_cases.make(random.Random(f"{seed}/{number}"))  # noqa: S311 (no secrets)


def run_numbered(seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Run a case; what it did as plain data."""
    start = time.perf_counter()
    kind, case = numbered(seed, number)
    try:
        outcome = fuzz_cases.run_case(case, folder)
        code, fault = outcome.code, outcome.fault
    except fuzz_cases.TooLateError:
        code, fault = -1, "time"
    except BaseException as error:  # noqa: BLE001 (whatever the command line lets through)
        code, fault = -1, f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    return {"number": number, "kind": kind, "code": code, "fault": fault, "seconds": seconds, "line": case.arguments}


def say(text: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def work(seed: int, first: int, count: int) -> None:
    """A batch in this process, a line of JSON for each case."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready")
        ready.mkdir()
        fuzz_cases.prepare(ready)
        for number in range(first, first + count):
            done = run_numbered(seed, number, Path(folder, "case"))
            done["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            say(json.dumps(done))
            if done["code"] < 0:  # what an exception has left behind would spoil the cases after it
                return


@dataclass
class Report:
    """What all cases did."""

    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    peak: int = 0
    slowest: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    def add(self, done: dict[str, Any]) -> None:
        """Count a case."""
        self.codes[done["kind"], done["code"]] += 1
        self.peak, self.slowest = max(self.peak, done["peak"]), max(self.slowest, done["seconds"])
        if done["fault"]:
            self.faults.append(done)
            say(f"case {done['number']} ({done['kind']}): {done['fault']}")

    def text(self) -> str:
        """Tables for people."""
        lines = ["| input | cases | results | violations found | clean errors |", "| --- | ---: | ---: | ---: | ---: |"]
        for kind in fuzz_cases.MAKERS:
            numbers = [self.codes[kind, code] for code in (0, 1, 2)]
            lines.append(f"| {kind} | {sum(numbers):,} | {' | '.join(f'{number:,}' for number in numbers)} |")
        wall = time.perf_counter() - self.start
        lines.append(
            f"{self.codes.total():,} cases in {wall:,.0f} s, {len(self.faults)} faults; slowest {self.slowest:.1f} s, "
            f"largest process {self.peak / 2**20:,.0f} MiB"
        )
        return "\n".join(lines)


def run_all(seed: int, first: int, cases: int) -> Report:
    """Run cases in batches, each in a process of its own."""
    report = Report()
    number, last = first, first + cases
    while number < last:
        number = _batch(seed, number, min(BATCH, last - number), report)
        if number // BATCH % 5 == 0:
            sys.stderr.write(f"{number - first:,} of {cases:,}\n")
    return report


def _batch(seed: int, first: int, count: int, report: Report) -> int:
    """One process; the number of the first case that was not run."""
    command = [sys.executable, __file__, "--seed", str(seed), "--batch", f"{first}:{count}"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    number, ended = first, False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        while True:
            watch = threading.Timer(HANGS_AFTER, child.kill)
            watch.start()
            line = child.stdout.readline()
            watch.cancel()
            if not line:
                break
            done = json.loads(line)
            report.add(done)
            number, ended = number + 1, done["code"] < 0  # after such a case the process gives up
    if child.returncode or (number < first + count and not ended):
        kind, case = numbered_or_unknown(seed, number)
        fault = f"the process ended with {child.returncode}"
        lost = {"number": number, "kind": kind, "code": -1, "fault": fault, "seconds": 0.0, "peak": 0, "line": case}
        report.add(lost)
        number += 1
    return number


def numbered_or_unknown(seed: int, number: int) -> tuple[str, Any]:
    """Kind and command line of a case; cases about folders need those to be told apart."""
    try:
        kind, case = numbered(seed, number)
    except KeyError:
        return "store", ()
    return kind, case.arguments


def show(seed: int, number: int) -> bool:
    """Run one case and print what it said; whether it is sound."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready")
        ready.mkdir()
        fuzz_cases.prepare(ready)
        kind, case = numbered(seed, number)
        outcome = fuzz_cases.run_case(case, Path(folder, "case"), 600)
    for name, content in case.files.items():
        say(f"--- {name}\n{content!r}" if b"\0" in content else f"--- {name}\n{content.decode(errors='replace')}")
    say(f"--- {kind}: pimsim {' '.join(case.arguments)}\n--- exit code {outcome.code}, {outcome.fault or 'sound'}")
    say(outcome.stdout + outcome.stderr)
    return not outcome.fault


class _Drawn(random.Random):
    """Random numbers that are read from bytes; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._at = data, 0

    def getrandbits(self, k: int, /) -> int:
        """The next bits."""
        size = (k + 7) // 8
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part.ljust(size, b"\0"), "little") & ((1 << k) - 1)

    def random(self) -> float:
        """From the next 16 bits."""
        return self.getrandbits(16) / 65536


def _instrument(instrument: Callable[[FunctionType], Any]) -> None:
    """Count the branches of every function of pimsim, also of modules that a run would load later, and of nothing else."""
    for module in pkgutil.walk_packages(pimsim.__path__, "pimsim."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and (function.__module__ or "").startswith("pimsim."):
            instrument(function)


def guided(seconds: int, seed: int) -> None:
    """Let coverage of pimsim choose what to draw, from ``SEEDS`` drawn cases on; ends the process."""
    try:
        import atheris
    except ImportError:
        sys.exit(
            "error: --guided needs the package atheris, on Linux with Python 3.11 to 3.13: pip install 'pimsim[fuzz]'"
        )
    _instrument(atheris.instrument_func)
    folder = tempfile.mkdtemp()
    ready = Path(folder, "ready")
    ready.mkdir()
    fuzz_cases.prepare(ready)
    corpus = Path(folder, "corpus")
    corpus.mkdir()
    for number in range(SEEDS):
        (corpus / str(number)).write_bytes(random.Random(f"{seed}/{number}").randbytes(LENGTH))  # noqa: S311 (no secrets)

    def try_one(data: bytes) -> None:
        _, case = fuzz_cases.make(_Drawn(data))
        outcome = fuzz_cases.run_case(case, Path(folder, "case"))
        if outcome.fault:
            raise RuntimeError(f"{' '.join(case.arguments)}: {outcome.fault}\n{outcome.stderr}")

    limits = (
        f"-max_total_time={seconds}",
        f"-max_len={LENGTH}",
        f"-seed={seed}",
        "-rss_limit_mb=1024",
        "-len_control=0",
    )
    atheris.Setup([sys.argv[0], *limits, str(corpus)], try_one)
    atheris.Fuzz()


def main() -> int:
    """The command line of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run this case and show it")
    parser.add_argument("--guided", type=int, metavar="SECONDS")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        first, count = map(int, options.batch.split(":"))
        work(options.seed, first, count)
        return 0
    if options.guided:
        guided(options.guided, options.seed)
    if options.only is not None:
        return 0 if show(options.seed, options.only) else 1
    report = run_all(options.seed, options.first, options.cases)
    say(report.text())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
