"""One run directory: the truth of a run, written as it happens and read back whole.

    runs/<run>/manifest.json    what the run is; replaced atomically as its status changes
    runs/<run>/requests.jsonl   one line per request, unbuffered, as the request ends
    runs/<run>/stages.jsonl     one line per finished stage
    runs/<run>/replies.jsonl    one line per request, where its words were to be kept
    runs/<run>/summary.json     on closing
    runs/latest                 a link to the newest run

Runs are never overwritten. A line cut off by a crash is dropped with one warning.
"""

from __future__ import annotations

import heapq
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import orjson

from contract.errors import ConfigError, DataError, nearest
from contract.jsonl import Line, LineFile, lines_in, read_lines
from contract.processes import started
from contract.records import (
    SCHEMA_VERSION,
    Manifest,
    RequestRecord,
    RunStatus,
    Stage,
    StageKey,
)
from contract.shards import left, requests_of, shard_of, shards_of

MANIFEST, REQUESTS, STAGES, SUMMARY, REPLIES = (
    "manifest.json",
    "requests.jsonl",
    "stages.jsonl",
    "summary.json",
    "replies.jsonl",
)


class RunWriter:
    """Creates `<root>/<run>` and appends to it. DataError when the disk takes no more."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.path = root / manifest.run
        self.manifest = manifest
        self._requests = LineFile(self.path / REQUESTS)
        self._stages = LineFile(self.path / STAGES)
        self._replies = LineFile(self.path / REPLIES, 0o600)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
            self._requests.open()
            self._stages.open()
        except OSError as error:
            raise no_place(root, error) from error
        try:
            self._replace_manifest()
        except DataError:
            self._remove()
            raise
        _point_latest(root, manifest.run)

    def _remove(self) -> None:
        """Take a run folder away that could not even get its manifest."""
        self._requests.close()
        self._stages.close()
        with suppress(OSError):
            for entry in self.path.iterdir():
                entry.unlink()
            self.path.rmdir()

    def append_requests(self, records: Iterable[RequestRecord]) -> None:
        """Each record one line, all of them in one unbuffered write."""
        self._requests.append(records)

    def append_lines(self, lines: bytes) -> None:
        """The same of records that are lines already."""
        self._requests.append_lines(lines)

    def append_reply(self, document: dict[str, Any]) -> None:
        """What was asked and answered, one line; for the user's eyes alone."""
        self._replies.append([document])

    @property
    def written(self) -> int:
        """Bytes of `requests.jsonl` so far."""
        return self._requests.size

    def records(self, start: int) -> Iterator[RequestRecord]:
        """The records appended from that byte on, unchecked as they are this writer's own. A
        last line that a full disk cut off is left out. DataError when the file cannot be read."""
        for line, _number, finished in read_lines(self.path / REQUESTS, start):
            if finished:
                yield RequestRecord.from_own(orjson.loads(line))

    def append_stage(self, stage: Stage) -> None:
        """One finished stage, one line."""
        self._stages.append([stage])

    def plan(self, key: StageKey) -> None:
        """One more stage is about to begin that nobody planned beforehand."""
        planned = [*self.manifest.planned, key]
        self.manifest = replace(self.manifest, planned=planned)
        self._replace_manifest()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace `summary.json`."""
        replace_json(self.path / SUMMARY, summary)

    def close(self, status: RunStatus, ended_unix: float, note: str | None = None) -> None:
        """Close the files and state how the run ended. A full disk leaves it `running`, which
        reads as partial once this process is gone."""
        for file in (self._requests, self._stages, self._replies):
            file.close()
        self.manifest = replace(self.manifest, status=status, ended_unix=ended_unix, note=note)
        self._replace_manifest()

    def _replace_manifest(self) -> None:
        replace_json(self.path / MANIFEST, self.manifest.to_json())


@dataclass(frozen=True, slots=True)
class Run:
    """A run read back: `stages` holds the finished ones, `missing` the planned ones that are not.

    `warnings` are one line each, for the user.
    """

    path: Path
    manifest: Manifest
    status: RunStatus
    stages: list[Stage]
    missing: list[StageKey]
    warnings: list[str]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read everything but the records; DataError names file, found and expected."""
        manifest = _read_manifest(path)
        stages, cut = _read_stages(path)
        finished = {stage.key for stage in stages}
        status = manifest.status
        if status == "running" and not _alive(manifest):
            status = "partial"
        warnings = [f"{path / STAGES}: dropped an unfinished last line"] if cut else []
        return cls(
            path=path,
            manifest=manifest,
            status=status,
            stages=stages,
            missing=[key for key in manifest.planned if key not in finished],
            warnings=warnings,
        )

    def records(self) -> Iterator[RequestRecord]:
        """The records in the order they ended, those last that a crash left in the files of
        shards; an unfinished last line is dropped and said so in `warnings` once the iteration
        is over."""
        shards, merged = shards_of(self.manifest.config), Counter[int]()
        with left(self.path, shards) as parts:
            # What of it is cut off is whole in the file of a shard.
            whole = read_lines(self.path / REQUESTS)
            for record in self._parsed(self.path / REQUESTS, whole, cut_is_lost=not parts):
                if parts:
                    merged[shard_of(record, shards)] += 1
                yield record
            rests = []
            for shard, file in parts.items():
                rest = islice(lines_in(file), merged[shard], None)
                rests.append(self._parsed(requests_of(self.path, shard), rest))
            yield from heapq.merge(*rests, key=attrgetter("ended"))

    def _parsed(
        self, path: Path, lines: Iterable[Line], *, cut_is_lost: bool = True
    ) -> Iterator[RequestRecord]:
        """The records that these lines of a file hold."""
        levels = {stage.stage: stage.key.agents for stage in self.stages}
        for line, number, finished in lines:
            try:
                record = RequestRecord.from_json(orjson.loads(line))
            except ValueError as error:
                if finished:
                    raise DataError(
                        f"{path}: line {number} is not a request record ({error})"
                    ) from error
                if cut_is_lost:
                    self.warnings.append(f"{path}: dropped an unfinished last line ({number})")
                return
            if record.run != self.manifest.run:
                raise DataError(
                    f"{path}: line {number} belongs to run '{record.run}', "
                    f"expected '{self.manifest.run}' of {MANIFEST}"
                )
            if record.agents != levels.get(record.stage, record.agents):
                raise DataError(
                    f"{path}: line {number} says {record.agents} agents, its stage "
                    f"{record.stage} had {levels[record.stage]}"
                )
            yield record


def no_place(root: Path, error: OSError) -> ConfigError:
    """The line for a folder in which no run can be created."""
    return ConfigError(
        f"--output-dir: cannot create a run in '{root}' ({error.strerror}); "
        "give a folder that can be written"
    )


def find_run(root: Path, name: str) -> Path:
    """The folder of a run: a path, a name under `root`, or `latest`; DataError when absent."""
    for candidate in (Path(name), root / name):
        if _holds_a_run(candidate):
            return candidate.resolve()
    known: list[str] = []
    with suppress(OSError):
        known = os.listdir(root)
    places = " or ".join(f"'{place}'" for place in dict.fromkeys((Path(name), root / name)))
    raise DataError(f"run '{name}' not found: no {MANIFEST} in {places}{nearest(name, known)}")


def _holds_a_run(folder: Path) -> bool:
    """DataError when that may not be looked at."""
    try:
        return (folder / MANIFEST).is_file()
    except PermissionError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    except OSError:  # no name that a file system takes
        return False


def replace_json(path: Path, document: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _point_latest(root: Path, run: str) -> None:
    beside = root / f".latest.{os.getpid()}"
    with suppress(OSError):  # a convenience: a file system without links must not stop a run
        beside.unlink(missing_ok=True)
        beside.symlink_to(run, target_is_directory=True)
        beside.replace(root / "latest")


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        document = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: not a run directory, {MANIFEST} is missing") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as JSON ({error})") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise DataError(
            f"{file}: found schema {schema!r}, this version reads 1 to {SCHEMA_VERSION}"
        )
    try:
        return Manifest.from_json(document)
    except ValueError as error:
        raise DataError(f"{file}: not a manifest of schema {schema} ({error})") from error


def _read_stages(path: Path) -> tuple[list[Stage], bool]:
    stages: list[Stage] = []
    for line, number, finished in read_lines(path / STAGES):
        try:
            stages.append(Stage.from_json(orjson.loads(line)))
        except ValueError as error:
            if not finished:
                return stages, True
            raise DataError(f"{path / STAGES}: line {number} is not a stage ({error})") from error
    return stages, False


def _alive(manifest: Manifest) -> bool:
    """Whether the writer still runs on this host: same pid and same start instant."""
    import platform

    if manifest.host.get("name") != platform.node():
        return False
    instant = started(manifest.pid)
    return instant is not None and abs(instant - manifest.pid_started) < 2.0
