"""The files of a run that follow from its records, made once it is over.

    requests.parquet   the records by column        summary.csv   one row per stage
    summary.json       with time slices             metrics.csv   three rows per request

One pass over `requests.jsonl` makes them all, in memory that does not hold the records. They
can be made again at any time, also of a run whose process was killed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import orjson

from contract.errors import ConfigError, DataError
from contract.parquet_file import PARQUET
from contract.records import RequestRecord
from contract.rundir import MANIFEST, REQUESTS, SUMMARY, Run, replace_json
from loadgen.figures.goodput import Objectives, parse_goodput
from loadgen.figures.percentiles import CUSTOMARY, parse_percentiles
from loadgen.figures.summary import run_summary, stage_summary
from loadgen.figures.tally import Tally, tallies
from loadgen.files import slices, summary_csv
from loadgen.files.metrics_csv import MetricsTable, keys_of
from loadgen.files.parquet import ParquetSink, beside, refused

METRICS_CSV, SUMMARY_CSV = "metrics.csv", "summary.csv"
FILES = (PARQUET, METRICS_CSV, SUMMARY, SUMMARY_CSV)
MOST_IN_METRICS_CSV = 250_000  # requests; each takes some 900 bytes of disk


class Sink(Protocol):
    """A file that takes the records of a run one after the other. DataError when it cannot."""

    def add(self, record: RequestRecord) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


def close_files(
    path: Path,
    *,
    seconds: float = 1.0,
    only: Collection[str] = FILES,
    into: Path | None = None,
    most_rows: int | None = MOST_IN_METRICS_CSV,
) -> list[str]:
    """Make the derived files of the run in `path`; returns one line for each that is not made.

    `seconds` is the wanted length of a time slice, `into` another folder to write to. An
    existing `summary.json` keeps its numbers and gains the slices; without a whole one it is
    counted from the records, where loop lags are not known. DataError where records or summary
    cannot be read or the summary cannot be written.
    """
    run, into = Run.open(path), into or path
    said_before = len(run.warnings)
    size = _size(path / REQUESTS)
    sliced, warnings = _Sliced(run, seconds), _too_many(run, only, most_rows)
    rows_wanted = METRICS_CSV in only and not warnings
    parquet = _Optional(into, PARQUET, ParquetSink, warnings) if PARQUET in only else None
    rows = None
    if rows_wanted:
        rows = _Optional(into, METRICS_CSV, lambda file: _MetricsFile(file, run), warnings)
    files = [file for file in (parquet, rows) if file is not None]
    try:
        for record in run.records():
            sliced.add(record)
            for file in files:
                file.add(record)
        if parquet is not None and isinstance(parquet.sink, ParquetSink):
            parquet.sink.jsonl_bytes = size if len(run.warnings) == said_before else None
        for file in files:
            file.close()
    finally:
        for file in files:
            file.abandon()
    _summarise(run, sliced, into, only, warnings)
    return list(dict.fromkeys([*run.warnings, *warnings]))


def _summarise(
    run: Run, sliced: _Sliced, into: Path, only: Collection[str], warnings: list[str]
) -> None:
    if not {SUMMARY, SUMMARY_CSV} & set(only):
        return
    document = sliced.into(_summary(run, warnings))
    if SUMMARY in only:
        replace_json(into / SUMMARY, document)
    if SUMMARY_CSV in only and not document["stages"]:
        warnings.append(f"no stage of run {run.manifest.run} finished: {SUMMARY_CSV} is not made")
    elif SUMMARY_CSV in only:
        hidden = beside(into / SUMMARY_CSV)
        try:
            with hidden.open("w", encoding="utf-8", newline="") as file:
                summary_csv.write(document["stages"], file)
            hidden.replace(into / SUMMARY_CSV)
        except OSError as error:
            hidden.unlink(missing_ok=True)
            warnings.append(str(refused(into / SUMMARY_CSV, error)))


def _summary(run: Run, warnings: list[str]) -> dict[str, Any]:
    """`summary.json` as it stands; counted from the records where there is no whole one."""
    file = run.path / SUMMARY
    try:
        return _read_summary(file.read_bytes())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        warnings.append(
            f"{file}: not a summary ({error}); counted again from the records, "
            "which do not hold every loop lag"
        )
    return counted(run)


def _read_summary(text: bytes) -> dict[str, Any]:
    """The document of a `summary.json`; ValueError says what is found and what expected."""
    document = orjson.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"a {type(document).__name__} found, an object expected")
    if not isinstance(document.get("definitions", {}), dict):
        raise ValueError("'definitions' is no object")
    stages = document.get("stages")
    if not isinstance(stages, list) or not all(map(_is_stage, stages)):
        raise ValueError("'stages' is no list of stages and their numbers")
    return document


def _is_stage(found: Any) -> bool:
    """Whether it has what other files are made of."""
    if not isinstance(found, dict) or type(found.get("stage")) is not int:
        return False
    verdicts = found.get("verdicts", [])
    return isinstance(verdicts, list) and all(
        isinstance(verdict, dict) and {"name", "checked", "ok"} <= verdict.keys()
        for verdict in verdicts
    )


def tallied(run: Run) -> defaultdict[int, Tally]:
    """The tallies of a run's records by stage, finished or not."""
    return tallies(run.records(), objectives_of(run))


def objectives_of(run: Run) -> Objectives | None:
    """What its requests were to meet. DataError where the manifest is damaged there."""
    asked = run.manifest.config.get("goodput")
    with _of_the_manifest(run):
        return parse_goodput(str(asked), "config.goodput") if asked else None


def _percentiles_of(run: Run) -> tuple[float, ...]:
    asked = run.manifest.config.get("percentiles", CUSTOMARY)
    given = asked if isinstance(asked, list | tuple) else str(asked)
    with _of_the_manifest(run):
        return parse_percentiles(given, "config.percentiles")


@contextmanager
def _of_the_manifest(run: Run) -> Iterator[None]:
    """What is wrong with a setting there was the user's mistake once, and is damage now."""
    try:
        yield
    except ConfigError as error:
        raise DataError(f"{run.path / MANIFEST}: {error}") from error


def counted(run: Run, found: defaultdict[int, Tally] | None = None) -> dict[str, Any]:
    """The summary of a run's finished stages, from the tallies of its records."""
    found = tallied(run) if found is None else found
    percentiles = _percentiles_of(run)
    addresses = run.manifest.addresses
    stages = [
        stage_summary(stage, found[stage.stage], percentiles, addresses=addresses)
        for stage in run.stages
    ]
    return {**run_summary(run.manifest, stages), "status": run.status}


class _Sliced:
    """The slices of every finished stage of a run."""

    def __init__(self, run: Run, seconds: float) -> None:
        self._stages = {
            stage.stage: slices.Slices(
                stage.start, stage.end, slices.slice_seconds(stage.end - stage.start, seconds)
            )
            for stage in run.stages
        }

    def add(self, record: RequestRecord) -> None:
        stage = self._stages.get(record.stage)
        if stage is not None:
            stage.add(record)

    def into(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The summary with its stages' slices and what they mean."""
        own = {number: stage.columns() for number, stage in self._stages.items()}
        stages = [
            {**stage, "slices": own[stage["stage"]]} if stage.get("stage") in own else stage
            for stage in summary["stages"]
        ]
        definitions = {**summary.get("definitions", {}), **slices.DEFINITIONS}
        return {**summary, "definitions": definitions, "stages": stages}


class _Optional:
    """A file one can do without: its first failure becomes one warning and ends it."""

    def __init__(
        self, into: Path, name: str, build: Callable[[Path], Sink], warnings: list[str]
    ) -> None:
        self._warnings = warnings
        self.sink: Sink | None = None
        if name == PARQUET and find_spec("pyarrow") is None:
            warnings.append(
                f"{into / name}: not made, pyarrow is not installed; "
                "install loadstone[analysis], then `loadgen export` makes it"
            )
            return
        try:
            self.sink = build(into / name)
        except DataError as error:
            self._fail(error)

    def add(self, record: RequestRecord) -> None:
        if self.sink is None:
            return
        try:
            self.sink.add(record)
        except DataError as error:
            self._fail(error)

    def close(self) -> None:
        if self.sink is None:
            return
        try:
            self.sink.close()
            self.sink = None
        except DataError as error:
            self._fail(error)

    def abandon(self) -> None:
        """Nothing half made stays behind."""
        if self.sink is not None:
            self.sink.abandon()
            self.sink = None

    def _fail(self, error: DataError) -> None:
        self._warnings.append(str(error))
        self.abandon()


class _MetricsFile:
    """`metrics.csv`, beside its place until it is whole."""

    def __init__(self, path: Path, run: Run) -> None:
        self._path, self._beside = path, beside(path)
        try:
            self._file = self._beside.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise refused(path, error) from error
        self._table = MetricsTable(self._file, run.manifest, keys_of(run.manifest, run.stages))

    def add(self, record: RequestRecord) -> None:
        try:
            self._table.add(record)
        except OSError as error:
            raise refused(self._path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
            self._beside.replace(self._path)
        except OSError as error:
            raise refused(self._path, error) from error

    def abandon(self) -> None:
        with suppress(OSError):
            self._file.close()
        self._beside.unlink(missing_ok=True)


def _too_many(run: Run, only: Collection[str], most: int | None) -> list[str]:
    requests = sum(stage.sent for stage in run.stages)
    if METRICS_CSV not in only or most is None or requests <= most:
        return []
    return [
        f"{run.path / METRICS_CSV}: not made of {requests} requests (more than {most}); "
        "`loadgen export --format csv` makes it"
    ]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
