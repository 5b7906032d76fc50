"""Objectives as they are written, records judged by them, and intervals against scipy."""

import pytest
from scipy import stats

from contract.errors import ConfigError
from contract.records import RequestRecord
from loadgen.figures.goodput import Objectives, attainment, clopper_pearson, parse_goodput, wilson

BASE = {"run": "r", "stage": 1, "agent": 0, "seq": 0, "agents": 1, "phase": "measured"}


def record(outcome="ok", first=0.1, last=1.0, tokens=10, chunks=10):
    return RequestRecord(
        **BASE, outcome=outcome, due=0.0, sent=0.0, first_token=first, last_token=last, ended=2.0,
        output_tokens=tokens, chunks=chunks,
    )  # fmt: skip


def test_objectives_are_written_in_milliseconds_and_kept_in_seconds():
    assert parse_goodput("ttft:200 tpot:50 e2el:5000") == Objectives(ttft=0.2, tpot=0.05, e2el=5.0)
    assert parse_goodput(["itl:12.5"]) == Objectives(itl=0.0125)
    assert str(parse_goodput("e2el:5000,ttft:200")) == "ttft:200 e2el:5000"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no objective given"),
        ("tftt:200", "unknown objective 'tftt', did you mean 'ttft'"),
        ("e2e:200", "did you mean 'e2el'"),
        ("ttft:nan", "'ttft:nan' given, allowed: a positive number"),
        ("ttft:inf", "a positive number"),
        ("ttft:-1", "a positive number"),
        ("ttft:0", "a positive number"),
        ("ttft", "'ttft' is not understood"),
        ("ttft:2s", "'ttft:2s' is not understood"),
        ("ttft:1 ttft:2", "given twice"),
    ],
)
def test_a_bad_objective_is_refused_with_what_is_allowed(text, says):
    with pytest.raises(ConfigError, match=r"^--goodput: .*allowed") as refused:
        parse_goodput(text)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("objective", "met"),
    [
        ("ttft:100", True), ("ttft:99", False), ("tpot:100.001", True), ("tpot:99", False),
        ("e2el:1000", True), ("e2el:999", False), ("itl:100.001", True), ("itl:99", False),
        ("ttft:100 e2el:999", False),
    ],
)  # fmt: skip
def test_a_record_meets_its_limits_or_not(objective, met):
    assert parse_goodput(objective).met_by(record()) is met


def test_what_did_not_end_ok_meets_nothing():
    for outcome in ("truncated", "rejected", "timed_out", "cancelled"):
        assert not Objectives(ttft=1e6).met_by(record(outcome=outcome))
    assert not Objectives(e2el=1e6).met_by(record(first=None, last=None))


def test_a_reply_of_one_token_has_no_gap_to_judge():
    assert parse_goodput("tpot:1 itl:1").met_by(record(tokens=1, chunks=1))


def test_merged_chunks_count_as_gaps_between_chunks():
    merged = record(tokens=10, chunks=4)  # gaps of 0.3 s, 0.1 s a token
    assert parse_goodput("tpot:101").met_by(merged)
    assert not parse_goodput("itl:299").met_by(merged)


CASES = [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (95, 100), (950, 1000), (1, 100_000)]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("met", "total"), CASES)
def test_intervals_equal_those_of_scipy(met, total, confidence):
    oracle = stats.binomtest(met, total)
    for ours, name in ((wilson, "wilson"), (clopper_pearson, "exact")):
        interval = oracle.proportion_ci(confidence, method=name)
        assert ours(met, total, confidence) == pytest.approx(
            (interval.low, interval.high), rel=1e-7, abs=1e-12
        )


def test_the_exact_interval_covers_at_least_what_it_claims():
    n, p = 40, 0.93
    covered = sum(
        stats.binom.pmf(k, n, p)
        for k in range(n + 1)
        if clopper_pearson(k, n)[0] <= p <= clopper_pearson(k, n)[1]
    )
    assert covered >= 0.95


def test_attainment_holds_share_and_interval():
    seen = attainment(95, 100)
    assert (seen.met, seen.total, seen.share) == (95, 100, 0.95)
    assert (seen.low, seen.high) == wilson(95, 100)
    with pytest.raises(ValueError, match="3 of 2"):
        attainment(3, 2)
