"""A run counted by column is the run counted by line, and every bad record is still named."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from analysis.from_parquet import counted_by_column
from analysis.from_rundir import TOLERANCE, counted_by_line, table_from_run
from contract.errors import DataError
from contract.parquet_file import JSONL_BYTES, PARQUET
from contract.records import RequestRecord
from contract.rundir import Run

COLUMNS = ("run", "stage", "agent", "seq", "phase", "outcome", "due", "sent", "first_token")
COLUMNS += ("last_token", "ended", "prompt_tokens", "output_tokens")


def write_columns(path: Path, *, jsonl_bytes: int | None = None, **changes) -> None:
    """`requests.parquet` of the records of a run, the sixth of them with `changes`."""
    rows = [
        {name: getattr(record, name) for name in COLUMNS} for record in Run.open(path).records()
    ]
    rows[5].update(changes)
    size = (path / "requests.jsonl").stat().st_size if jsonl_bytes is None else jsonl_bytes
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({JSONL_BYTES: str(size)})
    with parquet.ParquetWriter(path / PARQUET, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({JSONL_BYTES: str(size)})


def by_column(path):
    run = Run.open(path)
    return counted_by_column(run, [stage.stage for stage in run.stages], TOLERANCE)


def mixed(record: RequestRecord) -> RequestRecord:
    """Some requests fail, some counts and instants are not known."""
    draw = random.Random(hash((record.stage, record.seq)))
    if draw.random() < 0.2:
        return replace(record, output_tokens=None, sent=None, first_token=None)
    return replace(record, prompt_tokens=draw.randrange(10_000))


def test_both_ways_give_the_same_table_to_the_last_bit(synthetic_run, tmp_path):
    path = synthetic_run(edit=mixed).write(tmp_path)
    lines = table_from_run(Run.open(path))
    write_columns(path)
    run = Run.open(path)
    assert by_column(path) == counted_by_line(run, [stage.stage for stage in run.stages])
    assert table_from_run(run) == lines
    assert [row.requests for row in lines.levels] == [80, 160, 200, 200, 200, 200]


def test_outcomes_are_counted_and_only_ok_requests_are_timed(synthetic_run, tmp_path):
    def fail(record):
        return replace(record, outcome="oom", last_token=None) if record.seq == 7 else record

    path = synthetic_run(levels=(1, 2), edit=fail).write(tmp_path)
    write_columns(path)
    counted = by_column(path)[1]
    assert counted.outcomes == {"ok": 79, "oom": 1}
    assert (len(counted.instants), counted.latency.n) == (79, 79)


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "fine"},
        {"phase": "measure"},
        {"run": "other"},
        {"due": None},
        {"ended": float("inf")},
        {"sent": 0.0},
        {"last_token": 0.5},
        {"ended": 0.5},
        {"output_tokens": -1},
    ],
)
def test_a_record_that_cannot_be_is_not_counted_by_column(synthetic_run, tmp_path, change):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    write_columns(path)
    assert by_column(path) is not None
    write_columns(path, **change)
    assert by_column(path) is None


@pytest.mark.parametrize("change", [{"sent": 0.0}, {"outcome": "fine"}, {"output_tokens": -1}])
def test_the_lines_then_name_the_record(synthetic_run, tmp_path, change):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    file = path / "requests.jsonl"
    lines = file.read_text().splitlines()
    lines[5] = json.dumps({**json.loads(lines[5]), **change})
    damaged = "\n".join(lines) + "\n"
    write_columns(path, jsonl_bytes=len(damaged), **change)
    file.write_text(damaged)
    with pytest.raises(DataError, match=r"requests.jsonl: line 6 is not a request record"):
        table_from_run(Run.open(path))


def test_rounding_is_no_disorder(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    sixth = list(Run.open(path).records())[5]
    write_columns(path, sent=sixth.due - 1e-9)
    assert by_column(path) is not None


def test_columns_of_other_lines_are_not_read(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    write_columns(path, jsonl_bytes=17)
    assert by_column(path) is None
    write_columns(path)
    later = (path / PARQUET).stat().st_mtime_ns + 1
    os.utime(path / "requests.jsonl", ns=(later, later))
    assert by_column(path) is None


def test_columns_that_miss_requests_give_way_to_the_lines(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    expected = table_from_run(Run.open(path))
    write_columns(path, phase="drain")
    assert by_column(path)[1].outcomes == {"ok": 79}
    assert table_from_run(Run.open(path)) == expected


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_torn_file_gives_way_to_the_lines(synthetic_run, tmp_path, content):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    (path / PARQUET).write_bytes(content)
    assert by_column(path) is None
    assert len(table_from_run(Run.open(path)).levels) == 2


def test_a_file_without_a_column_gives_way_to_the_lines(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    size = (path / "requests.jsonl").stat().st_size
    with parquet.ParquetWriter(path / PARQUET, pyarrow.schema([("run", pyarrow.string())])) as w:
        w.add_key_value_metadata({JSONL_BYTES: str(size)})
    assert by_column(path) is None
