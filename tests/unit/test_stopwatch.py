import itertools

import orjson
import pytest

from contract.records import RequestRecord, ServerFacts
from loadgen.stopwatch import ERROR_CHARACTERS, Facts, Ids, Stopwatch, record

IDS = Ids("r", 1, 4, 2, 7)


def timed(*instants, due=1.0):
    ticks = iter(instants)
    watch = Stopwatch(lambda: next(ticks), due)
    watch.sent()
    for _ in range(len(instants) - 1):
        watch.mark()
    return watch


def test_latency_counts_from_the_due_time_and_the_send_lag_apart():
    watch = timed(1.5, 2.0, 2.25, 2.5)
    done = record(watch, Facts("ok", output_tokens=3), IDS, "measured", 2.6)
    assert (done.due, done.sent, done.first_token, done.last_token) == (1.0, 1.5, 2.0, 2.5)
    assert done.latency == pytest.approx(1.5)
    assert done.ttft == pytest.approx(1.0)
    assert done.send_lag == pytest.approx(0.5)
    assert done.tpot == pytest.approx(0.25)
    assert done.gaps_us == [250_000, 250_000]


def test_the_first_token_is_the_first_mark_with_content():
    watch = timed(1.0, 1.1, 1.2, 1.3, 1.4)
    done = record(watch, Facts("ok", content=[2, 2, 3]), IDS, "measured", 2.0)
    assert done.first_token == pytest.approx(1.3)
    assert done.last_token == pytest.approx(1.4)
    assert done.chunks == 3
    assert done.gaps_us == [0, 100_000]


def test_without_content_there_is_no_latency_but_an_end():
    done = record(timed(1.0, 1.1), Facts("truncated", content=[]), IDS, "drain", 3.0)
    assert (done.first_token, done.last_token, done.latency, done.ttft) == (None,) * 4
    assert done.ended == 3.0
    assert done.gaps_us == []


def test_the_first_answer_is_its_mark_and_what_was_asked_stands_beside():
    watch = timed(1.0, 1.1, 1.2, 1.3)
    facts = Facts("ok", content=[0, 1, 2], answer=2)
    done = record(watch, facts, IDS, "measured", 2.0, asked=64)
    assert (done.first_token, done.first_answer) == (1.1, 1.3)
    assert done.asked_tokens == 64
    assert record(watch, Facts("ok"), IDS, "measured", 2.0).first_answer is None


def test_of_an_answer_in_one_piece_only_the_end_is_known():
    facts = Facts("ok", content=(), whole=True, output_tokens=9)
    done = record(timed(1.0, 1.4, 1.5), facts, IDS, "measured", 2.0)
    assert (done.first_token, done.ttft, done.tpot, done.gaps_us) == (None, None, None, [])
    assert done.latency == pytest.approx(0.5)


def test_sent_counts_once():
    ticks = itertools.count(5.0)
    watch = Stopwatch(lambda: next(ticks), 0.0)
    watch.sent()
    watch.sent()
    assert watch.sent_at == 5.0


def test_a_long_error_is_cut_and_a_record_survives_its_json():
    facts = Facts("server_error", content=[], error="e" * 5000, status=500,
                  server=ServerFacts(prefill=0.5))  # fmt: skip
    done = record(timed(1.0), facts, IDS, "measured", 2.0)
    assert done.error is not None
    assert len(done.error) == ERROR_CHARACTERS
    assert RequestRecord.from_json(orjson.loads(orjson.dumps(done))) == done
    assert done.first_token is None
