"""A run directory as a Table: its records counted again, and held against its stage lines."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress

from analysis.counted import Counted
from analysis.from_parquet import counted_by_column
from analysis.table import Key, StageRow, Table, block_number, split_instants
from contract.errors import DataError
from contract.order import TOLERANCE
from contract.records import Stage, StageKey
from contract.rundir import REQUESTS, Run


def table_from_run(run: Run) -> Table:
    """Count a run's measured records by stage; DataError where they contradict themselves or
    the stage lines. Stages that never finished are named in `missing`, not guessed."""
    stages = _numbered(run)
    rows = _rows(run, stages)
    rated = {stage.key for stage in run.stages if stage.key.request_rate is not None}
    missing = _missing(run, rated | {stage.key for stage in stages.values()})
    return Table(
        key=_key(run),
        runs=[run.manifest.run],
        source="run directory",
        levels=rows,
        missing=missing,
        warnings=[*run.warnings, *_warnings(run), *(f"{name} did not finish" for name in missing)],
    )


def _rows(run: Run, stages: dict[int, Stage]) -> list[StageRow]:
    """By column where that agrees with the stage lines, else line by line: the lines are the
    truth, and name the record that is wrong."""
    counted = counted_by_column(run, stages, TOLERANCE)
    if counted is not None:
        with suppress(DataError):
            return [_row(run, stage, counted[number]) for number, stage in stages.items()]
    counted = counted_by_line(run, stages)
    return [_row(run, stage, counted[number]) for number, stage in stages.items()]


def counted_by_line(run: Run, stages: Collection[int]) -> dict[int, Counted]:
    """Count the measured records of `stages`; DataError names the first that cannot be."""
    counted = {number: Counted() for number in stages}
    for record in run.records():
        if record.phase == "measured" and record.stage in counted:
            counted[record.stage].add(record)
    return counted


def _numbered(run: Run) -> dict[int, Stage]:
    """The finished stages by number; one cut short before its window opened is none."""
    stages: dict[int, Stage] = {}
    for stage in run.stages:
        if stage.stage in stages:
            raise DataError(f"{run.path}: stage {stage.stage} is there twice in stages.jsonl")
        if stage.key.request_rate is not None:
            run.warnings.append(
                f"stage {stage.stage} ({stage.key.level}) is an open loop: no point of X(N)"
            )
        elif stage.complete or stage.end > stage.start:
            _check_window(run, stage)
            stages[stage.stage] = stage
    _check_one_shape(run)
    return stages


def _check_window(run: Run, stage: Stage) -> None:
    instants = (stage.start, stage.end, stage.start_unix, stage.end_unix)
    if not all(map(_finite, instants)) or stage.end <= stage.start:
        raise DataError(
            f"{run.path}: stage {stage.stage} has the window [{stage.start}, {stage.end}), "
            "expected two finite instants in order"
        )
    if not _whole(stage.key.agents) or stage.key.agents < 1:
        raise DataError(
            f"{run.path}: stage {stage.stage} has agents {stage.key.agents!r}, expected 1 or more"
        )


def _check_one_shape(run: Run) -> None:
    for name in ("backend", "model", "prompt_tokens", "output_tokens", "batch_size"):
        seen = sorted({str(getattr(stage.key, name)) for stage in run.stages})
        if len(seen) > 1:
            raise DataError(
                f"{run.path}: its stages differ in {name} ({', '.join(seen)}); "
                "a scaling law wants one request shape at several numbers of agents"
            )


def _finite(value: object) -> bool:
    return type(value) in (float, int) and math.isfinite(value)  # type: ignore[arg-type]


def _whole(value: object) -> bool:
    return type(value) is int


def _row(run: Run, stage: Stage, counted: Counted) -> StageRow:
    _check_counts(run, stage, counted)
    seconds = stage.end - stage.start
    requests = counted.outcomes["ok"]
    latency = counted.latency.value
    blocks = block_number(requests, seconds, latency)
    return StageRow(
        stage=stage.stage,
        agents=stage.key.agents,
        seconds=seconds,
        requests=requests,
        mean_output_tokens=counted.output_tokens.value,
        mean_prompt_tokens=counted.prompt_tokens.value,
        mean_latency=latency,
        outcomes=dict(counted.outcomes),
        block_counts=split_instants(counted.instants, stage.start, stage.end, blocks),
        block_seconds=seconds / blocks,
        verdicts=tuple(stage.verdicts),
        good=stage.whole,
        why=_why(stage),
        repeat=stage.key.repeat,
    )


def _check_counts(run: Run, stage: Stage, counted: Counted) -> None:
    planned = {outcome: n for outcome, n in stage.outcomes.items() if n}
    found = {outcome: n for outcome, n in counted.outcomes.items() if n}
    if planned != found:
        raise DataError(
            f"{run.path / REQUESTS}: stage {stage.stage} has {_counts(found)} measured requests, "
            f"its line in stages.jsonl says {_counts(planned)}"
        )
    outside = [
        instant
        for instant in counted.instants
        if not stage.start - TOLERANCE <= instant <= stage.end + TOLERANCE
    ]
    if outside:
        raise DataError(
            f"{run.path / REQUESTS}: stage {stage.stage} counts a request that completed at "
            f"{outside[0]}, outside its window [{stage.start}, {stage.end})"
        )


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items())) or "no"


def _why(stage: Stage) -> str:
    failed = stage.failed
    reasons = [f"failed {', '.join(failed)}"] if failed else []
    return "; ".join([*reasons, *([] if stage.complete else ["cut short"])])


def _missing(run: Run, finished: set[StageKey]) -> list[str]:
    """The planned stages without a row, numbered as the run numbers its stages."""
    planned = run.manifest.planned
    places = {key: place for place, key in enumerate(planned)}
    offsets = {stage.stage - places[stage.key] for stage in run.stages if stage.key in places}
    first = min(offsets, default=1)
    return [_name(place + first, key) for key, place in places.items() if key not in finished]


def _name(number: int, key: StageKey) -> str:
    again = f", repeat {key.repeat}" if key.repeat else ""
    return f"stage {number} (agents {key.agents}{again})"


def _warnings(run: Run) -> list[str]:
    if run.status == "running":
        return [f"run {run.manifest.run} is still going: only its finished stages count"]
    note = f" ({run.manifest.note})" if run.manifest.note else ""
    return [] if run.status == "complete" else [f"run {run.manifest.run} is {run.status}{note}"]


def _key(run: Run) -> Key:
    model, server = run.manifest.model, run.manifest.server
    shape = (run.stages or run.manifest.planned or [None])[0]
    key = shape.key if isinstance(shape, Stage) else shape
    return Key(
        model=str(key.model if key else model.get("name") or "unknown"),
        backend=str(key.backend if key else server.get("backend") or "unknown"),
        hardware=run.manifest.hardware,
        quantization=str(model.get("quantization") or "unknown"),
    )
