"""What the load generator says of its own error, and when it doubts a stage for it."""

import pytest

from contract.records import RequestRecord
from loadgen.figures.durations import Durations
from loadgen.figures.generator import PATH, generator_error, generator_verdict
from loadgen.figures.stamp_stats import StampStats
from loadgen.figures.tally import Tally

LAGS = Durations([100] * 990 + [7000] * 10)  # p99.5 is 7 ms


def tally_of(*gaps, ttft=0.05):
    """One request of each of these lists of gaps, in microseconds."""
    tally = Tally()
    for each in gaps:
        last = ttft + sum(each) / 1e6
        tally.add(
            RequestRecord(
                "r", 1, 0, 0, 1, "measured", "ok", 0.0, last, sent=0.0002, first_token=ttft,
                last_token=last, chunks=len(each) + 1, output_tokens=len(each) + 1,
                gaps_us=list(each),
            )
        )  # fmt: skip
    return tally


QUIET = tally_of(*[[10_000] * 31] * 20)


def test_kernel_stamps_of_their_own_are_exact_however_late_they_were_read():
    error = generator_error(StampStats(kernel=640, clock=2e-6), LAGS, QUIET)
    assert error.declared == pytest.approx(PATH + 2e-6)
    assert (error.reads, error.kernel_share, error.merged, error.missing) == (640, 1.0, 0, 0)
    assert (error.loop_lag_p50, error.loop_lag_p99) == (0.0001, pytest.approx(0.000169))
    assert error.send_lag_p50 == error.send_lag_p99 == pytest.approx(0.0002)
    assert error.stamp_delay_p99 is None


@pytest.mark.parametrize(
    "stats",
    [StampStats(user=640), StampStats(kernel=640, missing=7), StampStats(kernel=600, user=40)],
    ids=["all", "stamps that did not come", "some connections"],
)
def test_what_the_kernel_did_not_stamp_is_as_late_as_the_loop(stats):
    assert generator_error(stats, LAGS, QUIET).declared == pytest.approx(PATH + 0.007)


@pytest.mark.parametrize("seen", ["delays", "waits", "first_waits"])
def test_what_reads_waited_counts_where_it_is_longer_than_the_loops_lag(seen):
    stats = StampStats(user=640, **{seen: Durations([9000])})
    assert generator_error(stats, LAGS, QUIET).declared == pytest.approx(PATH + 0.009)
    assert generator_error(stats, Durations(), QUIET).declared == pytest.approx(PATH + 0.009)


def test_the_delay_stated_is_the_kernels_or_else_a_timers():
    lasting = {"delays": Durations([2000]), "waits": Durations([3000])}
    by_kernel = generator_error(StampStats(kernel=640, **lasting), LAGS, QUIET)
    by_us = generator_error(StampStats(user=640, **lasting), LAGS, QUIET)
    assert (by_kernel.stamp_delay_p50, by_us.stamp_delay_p50) == (0.002, 0.003)


def test_arrivals_under_one_stamp_may_have_waited_as_long_as_the_loop():
    kernel = StampStats(kernel=640)
    gaps = [[10_000] * 31 for _ in range(20)]
    for request in gaps[:4]:
        request[10:12] = [20_000, 0]
    error = generator_error(kernel, LAGS, tally_of(*gaps))
    assert (error.merged, error.declared) == (4, pytest.approx(PATH + 0.007))
    gaps[0] = [10_000] * 31
    gaps[1] = [10_000] * 31  # two in 640 touch fewer than one gap in a hundred
    assert generator_error(kernel, LAGS, tally_of(*gaps)).declared == PATH


def test_first_tokens_under_one_stamp_with_the_second_count_by_themselves():
    gaps = [[10_000] * 999 for _ in range(20)]
    gaps[0][0] = 0
    error = generator_error(StampStats(kernel=640), LAGS, tally_of(*gaps))
    assert (error.merged, error.declared) == (1, pytest.approx(PATH + 0.007))


def test_where_nobody_stamps_reads_or_nobody_knows_the_delay_nothing_is_declared():
    assert generator_error(StampStats(), LAGS, QUIET).declared is None
    assert generator_error(StampStats(user=9), Durations(), QUIET).declared is None


@pytest.mark.parametrize(
    ("lag", "gap", "ttft", "ok", "limit"),
    [
        (0.0008, 10_000, 0.05, True, 0.001),  # 5 % of a gap would be less than the least limit
        (0.0012, 10_000, 0.05, False, 0.001),
        (0.0012, 40_000, 0.05, True, 0.002),
        (0.0012, 40_000, 0.005, False, 0.001),
    ],
)
def test_the_limit_is_relative_to_what_is_disturbed(lag, gap, ttft, ok, limit):
    tally = tally_of(*[[gap] * 31] * 20, ttft=ttft)
    error = generator_error(StampStats(user=640), Durations([round(lag * 1e6)]), tally)
    verdict = generator_verdict(error, tally)
    assert (verdict.name, verdict.checked, verdict.ok) == ("generator", True, ok)
    assert verdict.limit == pytest.approx(limit)
    assert verdict.seen == pytest.approx(lag + PATH)
    assert f"up to {1e3 * (lag + PATH):.2f} ms" in verdict.says


def test_tokens_of_one_write_are_no_gap_to_hold_it_against():
    tally = tally_of(*[[0, 0, 0, 40_000] * 8] * 20)
    error = generator_error(StampStats(kernel=640), Durations([500]), tally)
    verdict = generator_verdict(error, tally)
    assert (verdict.ok, verdict.limit) == (True, pytest.approx(0.002))


def test_without_an_error_declared_or_a_token_it_is_not_asked():
    nobody = generator_error(StampStats(), LAGS, QUIET)
    silent = generator_error(StampStats(kernel=9), LAGS, Tally())
    for error, tally in ((None, QUIET), (nobody, QUIET), (silent, Tally())):
        verdict = generator_verdict(error, tally)
        assert (verdict.checked, verdict.ok, verdict.seen) == (False, True, None)
