"""What a stage counts while requests flow, and what it reads back once they are over."""

from dataclasses import replace

import orjson
import pytest

from contract.records import RequestRecord, ServerFacts
from contract.rundir import RunWriter
from loadgen.figures.tally import MOST_REASONS, Counts, tallies

RECORD = RequestRecord("r", 1, 0, 0, 4, "measured", "ok", due=1.0, ended=2.0)


def failing(number, outcome="server_error"):
    return replace(RECORD, outcome=outcome, error=f"request {number} was not taken")


def test_reasons_are_bounded_in_number_and_the_rest_is_told_by_outcome():
    counts = Counts()
    for number in range(1000):
        counts.add(failing(number))
        counts.add(failing(number, "rejected"))
    assert len(counts.reasons) == MOST_REASONS + 2
    assert counts.reasons["server_error: other"] == 1000 - MOST_REASONS / 2
    assert counts.reasons.total() == counts.sent == 2000
    counts.add(failing(3))  # one that is told apart already
    assert counts.reasons["server_error: request 3 was not taken"] == 2


def test_only_the_window_counts_as_measured():
    counts = Counts()
    for phase in ("warmup", "measured", "drain"):
        counts.add(replace(RECORD, phase=phase))
    counts.add(failing(1))
    assert (counts.sent, counts.ok, counts.measured) == (4, 3, 2)
    assert counts.outcomes == {"ok": 1, "server_error": 1}


def test_gaps_of_chunks_that_were_one_token_each_are_told_apart():
    one_each = replace(RECORD, chunks=3, output_tokens=3, gaps_us=[10, 20])
    merged = replace(RECORD, chunks=3, output_tokens=7, gaps_us=[1000, 0])
    tally = tallies([one_each, merged])[1]
    assert tally.token_gaps.quantiles([0, 1]) == [10e-6, 20e-6]
    assert tally.chunk_gaps.quantiles([0, 1]) == [0.0, 1e-3]
    assert len(tally.chunk_gaps) == 4


def test_a_stage_is_read_back_from_where_it_began(synthetic_run, tmp_path):
    run = synthetic_run(levels=(1, 4), edit=lambda r: replace(r, server=ServerFacts(load=0.5)))
    writer = RunWriter(tmp_path, run.manifest())
    assert list(writer.records(writer.written)) == []
    first, second = ([run.edit(record) for record in run.records(place)] for place in (0, 1))
    for record in first:
        writer.append_requests([record])
    begun = writer.written
    for record in second:
        writer.append_requests([record])
    assert list(writer.records(begun)) == second
    assert list(writer.records(0)) == [*first, *second]
    assert tallies(writer.records(begun))[2].loads == len(second)


def test_a_line_that_the_disk_cut_off_is_not_read_back(synthetic_run, tmp_path):
    run = synthetic_run(levels=(1,))
    writer = RunWriter(tmp_path, run.manifest())
    whole, cut = run.records(0)[:2]
    writer.append_requests([whole])
    with (writer.path / "requests.jsonl").open("ab") as file:
        file.write(orjson.dumps(cut)[:-1])
    assert list(writer.records(0)) == [whole]


def test_nothing_read_back_is_nothing_seen():
    tally = tallies([])[1]
    evidence = tally.evidence(1, 0.0, 1.0, Counts().loop_lags)
    assert (tally.sent, evidence.completions, evidence.in_flight) == (0, 0, 0.0)
    assert tally.chunk_gaps.mean is None
    assert tally.chunk_gaps.quantiles([0.5]) == [None]
    assert tally.in_flight(0.0, 1.0) == pytest.approx(0)
