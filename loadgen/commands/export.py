"""`loadgen export`: the files that follow from a run's records, also after a `kill -9`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.commandline import Parser, integer, say
from contract.errors import ConfigError, DataError
from contract.words import number_of

if TYPE_CHECKING:
    from contract.records import Stage
    from contract.rundir import Run
    from loadgen.files.export_vllm import Bench

FORMATS = ("vllm", "csv", "parquet")
_ABOUT = """\
Without --format: make the files that belong to a closed run (requests.parquet, summary.json,
summary.csv, metrics.csv), in its folder. With it:
  vllm     one JSON file per stage, as `vllm bench serve --save-result` writes them
  csv      metrics.csv (three rows per request) and summary.csv (one row per stage)
  parquet  requests.parquet, the records by column"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Add `export` to the subcommands of `loadgen`."""
    parser = subparsers.add_parser(
        "export", help="write a run as vLLM JSON, CSV or Parquet", description=_ABOUT
    )
    parser.set_defaults(command=export)
    parser.add_argument("run", nargs="?", default="latest", help="path or name (default: latest)")
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument(
        "--output", metavar="PATH", help="a folder, or a file where one is written (the run's)"
    )
    parser.add_argument("--output-dir", default="runs", metavar="DIR", help="where runs lie (runs)")
    parser.add_argument(
        "--slice-seconds", type=seconds, default=1.0, metavar="S", help="of a time slice (1)"
    )
    vllm = parser.add_argument_group("of --format vllm")
    vllm.add_argument("--stage", type=integer(at_least=1), metavar="N", help="this stage only")
    vllm.add_argument("--save-detailed", action="store_true", help="with lists of every request")
    vllm.add_argument(
        "--percentile-metrics", type=metrics, default=("ttft", "tpot", "itl"), metavar="NAMES"
    )
    vllm.add_argument(
        "--metric-percentiles", type=percentiles, default=(99.0,), metavar="P,P", help="(99)"
    )


def seconds(text: str) -> float:
    """An argparse type: the length of a time slice."""
    from contract.commandline import number

    return number(at_least=0.001, at_most=86_400.0)(text)


def metrics(text: str) -> tuple[str, ...]:
    """An argparse type: distinct names of vLLM's metrics."""
    from contract.errors import nearest
    from loadgen.files.export_vllm import METRICS

    names = tuple(text.split(","))
    for name in names:
        if name not in METRICS:
            raise argparse.ArgumentTypeError(
                f"'{name}' is not one of {', '.join(METRICS)}{nearest(name, METRICS)}"
            )
    return names


def percentiles(text: str) -> tuple[float, ...]:
    """An argparse type: percentiles between 0 and 100."""
    from contract.commandline import number

    return tuple(number(at_least=0.0, at_most=100.0)(part) for part in text.split(","))


def export(arguments: argparse.Namespace) -> int:
    """Write the files and print their paths, one a line."""
    from contract.rundir import Run, find_run

    run = Run.open(find_run(Path(arguments.output_dir), arguments.run))
    for flag in ("stage", "save_detailed"):
        if getattr(arguments, flag) and arguments.format != "vllm":
            raise ConfigError(f"--{flag.replace('_', '-')}: belongs to --format vllm")
    made = _vllm(run, arguments) if arguments.format == "vllm" else _derived(run, arguments)
    for file in made:
        print(file)
    return 0


def _derived(run: Run, arguments: argparse.Namespace) -> list[Path]:
    from tempfile import TemporaryDirectory

    from contract.parquet_file import PARQUET
    from loadgen.files.close import FILES, METRICS_CSV, SUMMARY_CSV
    from loadgen.files.parquet import refused

    if run.status == "running":
        raise DataError(f"run {run.manifest.run} is still going: export it when it has ended")
    only = {"csv": (METRICS_CSV, SUMMARY_CSV), "parquet": (PARQUET,), None: FILES}[arguments.format]
    given = Path(arguments.output) if arguments.output else run.path
    if not _names_a_file(given):
        _make(given)
        return _close(run, arguments, only, given)
    if len(only) > 1:
        raise ConfigError(
            f"--output: '{given}' is one file, {len(only)} are written; give a folder"
        )
    _make(given.parent)
    try:
        with TemporaryDirectory(dir=given.parent) as folder:
            (made,) = _close(run, arguments, only, Path(folder))
            made.replace(given)
    except OSError as error:
        raise refused(given, error) from error
    return [given]


def _close(run: Run, arguments: argparse.Namespace, only: Sequence[str], into: Path) -> list[Path]:
    from loadgen.files.close import MOST_IN_METRICS_CSV, close_files

    warnings = close_files(
        run.path,
        seconds=arguments.slice_seconds,
        only=only,
        into=into,
        most_rows=None if arguments.format else MOST_IN_METRICS_CSV,
    )
    for warning in warnings:
        if arguments.format and warning.startswith(tuple(f"{into / name}:" for name in only)):
            raise DataError(warning)  # what was asked for by name is no extra
        say("warning", warning)
    return [into / name for name in only if (into / name).exists()]


def _vllm(run: Run, arguments: argparse.Namespace) -> list[Path]:
    from loadgen.files.export_vllm import document, file_name

    stages = _measured(run, arguments.stage)
    given = Path(arguments.output) if arguments.output else run.path
    if _names_a_file(given) and len(stages) > 1:
        raise ConfigError(
            f"--output: '{given}' is one file, {len(stages)} stages are written; "
            "give a folder or --stage"
        )
    _make(given.parent if _names_a_file(given) else given)
    benches = _benches(run, stages, detailed=arguments.save_detailed)
    made = []
    for stage in stages:
        found = document(
            benches[stage.stage],
            stage,
            run.manifest,
            arguments.percentile_metrics,
            arguments.metric_percentiles,
        )
        file = given if _names_a_file(given) else given / file_name(found)
        if file in made:  # two stages that ended within one second
            file = file.with_stem(f"{file.stem}-stage{stage.stage}")
        _write(file, found)
        made.append(file)
    return made


def _measured(run: Run, wanted: int | None) -> list[Stage]:
    """The stages with a window, or the one of them that is `wanted`. DataError of a run without
    any, ConfigError where it is another."""
    measured = [stage for stage in run.stages if stage.end > stage.start]
    if not measured:
        from loadgen.files.close import tallied

        records = number_of(sum(tally.sent for tally in tallied(run).values()), "record")
        advice = "--format parquet or csv writes records as they are"
        if run.status == "running":
            advice = "it is still going: export it when a stage has ended"
        raise DataError(
            f"run {run.manifest.run} ({run.status}): no stage finished, {records} found; {advice}"
        )
    chosen = [stage for stage in measured if wanted in (None, stage.stage)]
    if not chosen:
        known = ", ".join(str(stage.stage) for stage in measured)
        raise ConfigError(f"--stage: {wanted} is no finished stage, finished: {known}")
    return chosen


def _benches(run: Run, stages: list[Stage], *, detailed: bool) -> dict[int, Bench]:
    from loadgen.files.close import objectives_of
    from loadgen.files.export_vllm import Bench

    objectives = objectives_of(run)
    benches = {
        stage.stage: Bench(start=stage.start, detailed=detailed, objectives=objectives)
        for stage in stages
    }
    for record in run.records():
        bench = benches.get(record.stage)
        if bench is not None:
            bench.add(record)
    for warning in run.warnings:
        say("warning", warning)
    return benches


def _names_a_file(path: Path) -> bool:
    return path.suffix in (".json", ".parquet", ".csv") and not os.path.isdir(path)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output: '{folder}' cannot be made ({error.strerror}); give a folder to write to"
        ) from error


def _write(file: Path, document: dict[str, Any]) -> None:
    import json

    from loadgen.files.parquet import beside, refused

    hidden = beside(file)
    try:
        with hidden.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, allow_nan=False)
        hidden.replace(file)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise refused(file, error) from error
