"""The counts of a run read by column from `requests.parquet`, where that file still holds.

The same checks as on the lines of `requests.jsonl`, over whole columns. What fails one, or
cannot be read, is not counted here: the caller turns to the lines, which say what is wrong.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection
from typing import Any

from analysis.counted import Counted, Mean
from contract.parquet_file import PARQUET, is_current
from contract.records import OUTCOMES, PHASES
from contract.rundir import REQUESTS, Run

INSTANTS = ("due", "sent", "first_token", "last_token", "ended")
TOKENS = ("prompt_tokens", "output_tokens")
WORDS = ("run", "phase", "outcome")
REQUIRED = ("run", "stage", "phase", "outcome", "due", "ended")


def counted_by_column(
    run: Run, stages: Collection[int], tolerance: float
) -> dict[int, Counted] | None:
    """The counts of the stages asked for; None where the records must be read line by line.

    `tolerance` is how many seconds instants may be out of order by rounding.
    """
    try:
        import pyarrow
    except ImportError:
        return None
    try:
        found = _read(run)
        return None if found is None else _count(found, run, stages, tolerance)
    except (OSError, KeyError, pyarrow.ArrowException):
        return None


def _count(
    found: Any, run: Run, stages: Collection[int], tolerance: float
) -> dict[int, Counted] | None:
    if any(found[name].null_count for name in REQUIRED) or not _known(found, run):
        return None
    columns = {name: _numbers(found[name]) for name in (*INSTANTS, *TOKENS)}
    if not _sound(columns, tolerance):
        return None
    of_stage, measured = found["stage"].to_numpy(), _equal(found["phase"], "measured")
    return {stage: _counted(found, columns, measured & (of_stage == stage)) for stage in stages}


def _read(run: Run) -> Any:
    """The columns that counting needs; None where the file is not of these records."""
    from pyarrow import parquet

    path, names = run.path / PARQUET, ["stage", *WORDS, *INSTANTS, *TOKENS]
    with parquet.ParquetFile(path, read_dictionary=list(WORDS)) as file:
        if not is_current(file.metadata.metadata, path, run.path / REQUESTS):
            return None
        return file.read(columns=names)


def _known(found: Any, run: Run) -> bool:
    """Whether every word is one of those there are, and every record belongs to the run."""
    allowed = {"run": {run.manifest.run}, "phase": set(PHASES), "outcome": set(OUTCOMES)}
    return all(set(found[name].unique().to_pylist()) <= allowed[name] for name in WORDS)


def _numbers(column: Any) -> Any:
    """A column as doubles, absent values as NaN: records hold none, JSON does not know it."""
    import pyarrow

    return column.cast(pyarrow.float64(), safe=False).to_numpy()


def _sound(columns: dict[str, Any], tolerance: float) -> bool:
    """Instants finite and in order, token counts not negative; absent values pass."""
    import numpy

    at = columns["due"]
    for name in INSTANTS:
        column = columns[name]
        present = ~numpy.isnan(column)
        if numpy.isinf(column).any() or (column[present] < at[present] - tolerance).any():
            return False
        at = numpy.where(present, column, at)
    return not any((columns[name] < 0).any() for name in TOKENS)


def _equal(column: Any, word: str) -> Any:
    import pyarrow.compute

    return pyarrow.compute.equal(column, word).to_numpy()


def _counted(found: Any, columns: dict[str, Any], own: Any) -> Counted:
    outcomes = found["outcome"].filter(own).value_counts().to_pylist()
    ok = own & _equal(found["outcome"], "ok")
    return Counted(
        outcomes=Counter({entry["values"]: entry["counts"] for entry in outcomes}),
        instants=array("d", columns["ended"][ok].tobytes()),
        latency=_mean(columns["last_token"][ok] - columns["due"][ok]),
        output_tokens=_mean(columns["output_tokens"][ok]),
        prompt_tokens=_mean(columns["prompt_tokens"][ok]),
    )


def _mean(values: Any) -> Mean:
    import numpy

    present = values[~numpy.isnan(values)]
    # Added up one after the other, as lines are: the same bits from either file.
    total = float(numpy.cumsum(present)[-1]) if len(present) else 0.0
    return Mean(total, len(present))
