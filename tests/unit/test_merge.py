"""Files that grow, merged in the order their records ended."""

import math
import random

import orjson
import pytest

from contract.errors import DataError
from contract.records import RequestRecord
from contract.rundir import Run, RunWriter
from contract.shards import requests_of
from loadgen.shards.merge import Merge

NAME = "20261120T104500-1a2b"


def record_of(agent, seq, ended, agents=4):
    return RequestRecord(NAME, 1, agent, seq, agents, "warmup", "ok", due=ended - 1, ended=ended)


def lines(*records):
    return b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in records)


@pytest.fixture
def files(tmp_path):
    """Two empty files and their merge."""
    paths = [requests_of(tmp_path, shard) for shard in range(2)]
    for path in paths:
        path.touch()
    merge = Merge(paths)
    yield paths, merge
    merge.close()


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def ended(merge):
    return [record.ended for record in merge.settled()]


def test_nothing_is_taken_before_the_instant_everything_is_known_of(files):
    (one, two), merge = files
    append(one, lines(record_of(0, 0, 1.0), record_of(0, 1, 3.0)))
    append(two, lines(record_of(1, 0, 2.0)))
    assert ended(merge) == []
    merge.upto = [3.0, 2.0]
    assert ended(merge) == [1.0]
    merge.upto = [3.0, 3.0]
    assert ended(merge) == [2.0]  # at 3.0 itself something may still end
    append(two, lines(record_of(1, 1, 3.0)))
    merge.upto = [math.inf, math.inf]
    assert ended(merge) == [3.0, 3.0]
    assert merge.taken == [2, 2]


def test_a_line_that_is_being_written_waits_for_its_rest(files):
    (one, _), merge = files
    whole = lines(record_of(0, 0, 1.0), record_of(0, 1, 2.0))
    cut = len(whole) - 20
    append(one, whole[:cut])
    merge.upto = [math.inf, math.inf]
    assert ended(merge) == [1.0]
    append(one, whole[cut:])
    assert ended(merge) == [2.0]


def test_all_lines_are_taken_once_and_in_order_however_they_come(files):
    paths, merge = files
    draw, taken = random.Random(4), []
    for step in range(1, 200):
        for shard, path in enumerate(paths):
            instants = sorted(step + draw.random() for _ in range(draw.randrange(4)))
            append(path, lines(*(record_of(shard, 0, instant) for instant in instants)))
            if draw.random() < 0.5:
                merge.upto[shard] = step + 1.0
        taken += ended(merge)
    before = len(taken)
    merge.upto = [math.inf] * 2
    taken += ended(merge)
    written = sum(path.read_bytes().count(b"\n") for path in paths)
    assert 0 < before < len(taken) == sum(merge.taken) == written
    assert taken == sorted(taken)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"requests\.0\.jsonl: cannot be read"):
        Merge([requests_of(tmp_path, 0)])


@pytest.fixture
def cut_off(synthetic_run, tmp_path):
    """A run of three shards killed while it merged: two records are merged, one of the merged
    file is cut, and shard 1 was writing."""
    manifest = synthetic_run(levels=(4,)).manifest()
    manifest.config["shards"] = 3
    writer = RunWriter(tmp_path, manifest)
    records = [record_of(number % 4, number, 1.0 + number) for number in range(8)]
    for record in records:
        append(requests_of(writer.path, record.agent % 3), lines(record))
    writer.append_requests(records[:2])
    append(writer.path / "requests.jsonl", lines(records[2])[:30])
    append(requests_of(writer.path, 1), lines(records[1])[:30])
    return Run.open(writer.path), records


def test_what_a_crash_left_with_the_shards_is_read_with_the_rest(cut_off):
    run, records = cut_off
    assert list(run.records()) == records
    (warning,) = run.warnings
    assert "requests.1.jsonl: dropped an unfinished last line (3)" in warning


def test_files_taken_away_while_they_are_read_are_read_all_the_same(cut_off):
    run, records = cut_off
    reading = run.records()
    first = next(reading)
    for shard in range(3):
        requests_of(run.path, shard).unlink()
    assert [first, *reading] == records


def test_an_open_loop_is_dealt_by_number(synthetic_run, tmp_path):
    manifest = synthetic_run(levels=(4,)).manifest()
    manifest.config["shards"] = 2
    writer = RunWriter(tmp_path, manifest)
    records = [record_of(0, number, 1.0 + number, agents=0) for number in range(6)]
    for record in records:
        append(requests_of(writer.path, record.seq % 2), lines(record))
    writer.append_requests(records[:3])
    assert list(Run.open(writer.path).records()) == records
