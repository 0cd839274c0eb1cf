"""The folder of a sweep: an append-only log of checksummed records, and Parquet tables made from it.

The log is the truth. A record is one line, ``<crc32> <json>``, and it is on the disk, not only in the cache of the
system, before anybody is told that its point is done: so are the log's name and the manifest. What a killed run left of its
last line is cut off, and a damaged line is a point that is run again. Tables take their place as a whole and hold nothing
that depends on the order in which points finished; wall-clock times have a table of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from pimsim.errors import ConfigError, InputError
from pimsim.explore.plan import Plan, look_up, resolve
from pimsim.jsonio import Document, parse_json, read_as, read_json
from pimsim.model import NonNegativeInt
from pimsim.result import manifest
from pimsim.yamlio import dump

SCHEMA = "pimsim.sweep/1"
"""Name and version of the folder's form."""

MAX_RECORD = 10_000_000
"""Bytes of one record."""

Row = dict[str, Any]


class Store:
    """The folder of one sweep, opened for writing and locked until `close`.

    Raises:
        InputError: the folder cannot be written, is in use, or holds something else than points of this sweep.
    """

    def __init__(self, folder: Path, plan: Plan, *, resume: bool, shard: tuple[int, int] = (1, 1)) -> None:
        self.folder, self._plan = folder, plan
        self._name = f"records-{shard[0]}-of-{shard[1]}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked(shard)
            try:
                self._admit(resume)
                self.records = {record["point"]: record for record in _read(folder, plan)}
                self._log = self._open_log()
            except BaseException:
                for descriptor in {self._lock, self._shard_lock}:
                    os.close(descriptor)
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.folder}: must be a folder that can be written ({error.strerror}); finished points are kept, "
            "go on with --resume"
        )

    def _locked(self, shard: tuple[int, int]) -> int:
        """A whole sweep excludes everything else, a shard only whole sweeps and itself."""
        name = ".lock" if shard == (1, 1) else f".lock-{shard[0]}-of-{shard[1]}"
        whole = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        mine = whole if shard == (1, 1) else os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if mine != whole:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(whole, (fcntl.LOCK_EX if mine == whole else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.folder}: must not be in use; another sweep runs in it") from None
        self._shard_lock = mine
        return whole

    def _admit(self, resume: bool) -> None:
        file = self.folder / "sweep.json"
        if not file.exists():
            others = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
            if others:
                raise InputError(f"{self.folder}: must be empty or hold a sweep; it holds {min(others)}")
            _replace(self.folder / "sweep.yaml", (dump(_described(self._plan))).encode())
            _replace(file, (json.dumps(_manifest(self._plan), indent=2) + "\n").encode())
            return
        found = _load_manifest(file)
        version = found.manifest.version
        mine = manifest([], {}).version
        if version != mine:
            raise InputError(f"{self.folder}: must be of pimsim {mine}, not of {version}; take another --out")
        if found.fingerprint != self._plan.fingerprint:
            raise InputError(
                f"{self.folder}: must hold points of this very sweep, but the sweep file, --set or a file that it names "
                "has changed; take another --out"
            )
        if not resume and (self.folder / self._name).exists():
            raise InputError(f"{self.folder}: must be empty, or --resume must be given; it holds points of this sweep")

    def _open_log(self) -> int:
        """The log of this run without what a killed run left of its last line."""
        path = self.folder / self._name
        log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        whole = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(log, whole)
        _sync_folder(self.folder)
        return log

    def add(self, record: Row) -> None:
        """Keep a finished point; once this returns it survives the end of this process, and a power cut.

        Raises:
            InputError: it cannot be written; the log ends with the point before.
        """
        body = json.dumps(record, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        end = os.fstat(self._log).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._log, line[written:])
            os.fsync(self._log)
        except OSError as error:
            os.ftruncate(self._log, end)
            raise self._unwritable(error) from error
        self.records[record["point"]] = record

    def compact(self) -> None:
        """Write the tables from every record in the folder.

        Raises:
            InputError: they cannot be written; the log is complete.
        """
        try:
            records = {record["point"]: record for record in _read(self.folder, self._plan)}
            write_tables(self.folder, self._plan, [records[point] for point in sorted(records)])
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Let others in."""
        for descriptor in {self._log, self._lock, self._shard_lock}:
            os.close(descriptor)


class _Setting(Document):
    arch: str
    workload: str


class _Timing(Document):
    wall_seconds: float
    overhead_seconds: float
    worker: str
    finished_at: float


class _Record(Document):
    """What the tables need of a record; a sound checksum does not say that pimsim has written it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=True)
    point: NonNegativeInt
    setting: _Setting
    status: Literal["ok", "failed"]
    error: str | None
    figures: dict[str, int | float | None]
    objectives: dict[str, float] = Field(default_factory=dict)
    timing: _Timing
    id: str | None = None
    arch_hash: str | None = None
    workload_hash: str | None = None


class _Version(Document):
    version: str


class _Manifest(Document):
    schema_: Literal["pimsim.sweep/1"] = Field(alias="schema")
    fingerprint: str
    manifest: _Version


def _read(folder: Path, plan: Plan) -> Iterator[Row]:
    """Every whole record of every log; a line that is none is left out, so its point is run again."""
    for path in sorted(folder.glob("records-*.log")):
        with path.open("rb") as log:
            while line := log.readline(MAX_RECORD):
                body = line[9:].removesuffix(b"\n")
                if line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(body):
                    with contextlib.suppress(ConfigError):
                        record = parse_json(body, path)
                        checked = read_as(_Record, record, path)
                        if checked.status == "failed" or set(checked.objectives) == set(plan.config.objectives):
                            yield record


def _load_manifest(file: Path) -> _Manifest:
    try:
        return read_as(_Manifest, read_json(file), file)
    except ConfigError:
        raise InputError(f"{file}: must be the manifest of a sweep, of the form {SCHEMA}") from None


def _described(plan: Plan) -> dict[str, Any]:
    return {**plan.config.model_dump(mode="json", exclude_defaults=True), "set": plan.fixed}


def _manifest(plan: Plan) -> dict[str, Any]:
    config = plan.config
    values: dict[str, Any] = {**config.axes}
    for group in config.zip:
        values |= group
    return {
        "schema": SCHEMA,
        "name": config.name,
        "description": config.description,
        "points": plan.count,
        "fingerprint": plan.fingerprint,
        "arch": config.arch,
        "workload": config.workload,
        "engine": config.engine,
        "seed": config.seed,
        "axes": [{"path": path, "how": how, "values": values.get(path)} for path, how in plan.paths.items()],
        "set": plan.fixed,
        "constraints": config.constraints,
        "objectives": [{"name": name, **goal.model_dump()} for name, goal in config.objectives.items()],
        "search": plan.search,
        "manifest": asdict(manifest([], {})),
    }


def write_tables(folder: Path, plan: Plan, records: list[Row]) -> None:
    """Write results, timings, configurations and the Pareto front of records that are sorted by point."""
    rows = [_row(plan, record) for record in records]
    if plan.config.objectives:
        _mark_front(plan, rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    tail = ["arch_hash", "workload_hash"]
    names = [name for name in names if name not in tail] + tail
    _write(folder / "results.parquet", rows, names)
    timings = [{"point": record["point"], **record["timing"]} for record in records]
    _write(folder / "timings.parquet", timings, ["point", "wall_seconds", "overhead_seconds", "worker", "finished_at"])
    _write(folder / "configs.parquet", _configs(records), ["hash", "kind", "name", "content"])
    if plan.config.objectives:
        _write(folder / "pareto.parquet", [row for row in rows if row["pareto"]], names)


def _row(plan: Plan, record: Row) -> Row:
    setting = record["setting"]
    return {
        "point": record["point"],
        "id": record.get("id"),
        "status": record["status"],
        "error": record["error"],
        "arch": setting["arch"],
        "workload": setting["workload"],
        **{path: look_up(setting, path) for path in plan.paths if path not in ("arch", "workload")},
        **{name: record.get("objectives", {}).get(name) for name in plan.config.objectives},
        **({"pareto": None} if plan.config.objectives else {}),
        **record["figures"],
        "arch_hash": record.get("arch_hash"),
        "workload_hash": record.get("workload_hash"),
    }


def _mark_front(plan: Plan, rows: list[Row]) -> None:
    """Set ``pareto``: no other row is at least as good in every objective and better in one."""
    signs = {name: 1 if goal.goal == "minimize" else -1 for name, goal in plan.config.objectives.items()}
    good = [(tuple(sign * row[name] for name, sign in signs.items()), row) for row in rows if row["status"] == "ok"]
    distinct = {scores for scores, _ in good}
    front: list[tuple[float, ...]] = []
    for scores in sorted(distinct):  # whoever dominates another comes before it
        if not any(all(a <= b for a, b in zip(better, scores, strict=True)) for better in front):
            front.append(scores)
    members = set(front)
    for scores, row in good:
        row["pareto"] = scores in members


def _configs(records: list[Row]) -> list[Row]:
    found: dict[tuple[str, str], Row] = {}
    for record in records:
        keys = [("arch", record.get("arch_hash")), ("workload", record.get("workload_hash"))]
        missing = [key for key in keys if key[1] is not None and key not in found]
        if missing:
            for (kind, digest), loaded in zip(keys, resolve(record["setting"]), strict=True):
                content = json.dumps(loaded.content)
                found[kind, str(digest)] = {"hash": digest, "kind": kind, "name": loaded.value.name, "content": content}
    return [found[key] for key in sorted(found)]


def _write(path: Path, rows: list[Row], names: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    _replace(path, sink.getvalue().to_pybytes())


def _column(values: list[Any]) -> Any:
    """A column of one type: whole numbers, numbers, truth values or text; anything else as JSON text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    wide = any(isinstance(value, int) and abs(value) >= 1 << 63 for value in values)
    if kinds <= {int, float} and not wide:
        return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {str}:
        return pa.array(values, pa.string())
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _replace(path: Path, data: bytes) -> None:
    """A file that is there as a whole or as before, also after a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["SCHEMA", "Store", "write_tables"]
