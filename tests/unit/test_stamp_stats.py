"""What is known of the stamps of many reads: it adds up, travels, and stays small."""

import json

import pytest

from loadgen.figures.durations import Durations
from loadgen.figures.stamp_stats import SAMPLES, StampStats, summed


def sampled(*seconds):
    stats = StampStats(kernel=len(seconds))
    for each in seconds:
        stats.sample(each)
    return stats


def test_several_add_up():
    one = StampStats(kernel=3, user=1, missing=1, clock=2e-6, delays=Durations([100]))
    two = StampStats(kernel=4, clock=1e-6, delays=Durations([200, 300]))
    total = summed([one, two, sampled(0.0004)])
    assert (total.kernel, total.user, total.missing, total.reads) == (8, 1, 1, 9)
    assert total.clock == 2e-6
    assert sorted(total.delays.pairs()) == [(100, 1), (200, 1), (300, 1), (400, 1)]
    assert one.delays.pairs() == [(100, 1)]
    assert total.kernel_share == pytest.approx(7 / 9)
    assert summed([]).kernel_share is None


def test_what_was_taken_does_not_come_again():
    stats = sampled(0.001, 0.002)
    stats.user, stats.clock = 3, 1e-3
    taken = stats.take()
    assert (taken.kernel, taken.user, taken.clock) == (2, 3, 1e-3)
    assert sorted(taken.delays.pairs()) == [(1000, 1), (2000, 1)]
    assert stats.take().to_json() == StampStats().to_json()


def test_reads_waited_no_longer_than_the_timer_before_and_after_them_together():
    stats = StampStats()
    stats.late(0.009)  # nothing was read
    stats.user += 3
    stats.firsts += 1
    stats.late(0.001)
    stats.user += 2
    stats.late(0.008)
    stats.late(0.002)
    stats.firsts += 1
    stats.late(0.001)
    taken = stats.take()
    assert sorted(taken.waits.pairs()) == [(9000, 2), (10_000, 3)]
    assert sorted(taken.first_waits.pairs()) == [(3000, 1), (10_000, 1)]


def test_ever_more_samples_take_no_more_room_and_stand_for_all():
    stats, many = StampStats(), 5 * SAMPLES
    for number in range(many):
        stats.skip -= 1
        if stats.skip <= 0:
            stats.sample(number / many)
    delays = stats.take().delays
    assert len(delays) == pytest.approx(many, rel=0.01)
    assert delays.quantiles((0.5, 0.99)) == [pytest.approx(q, abs=0.01) for q in (0.5, 0.99)]


def test_another_process_gets_the_same():
    stats = sampled(0.001, 0.002, 0.002)
    stats.user, stats.firsts, stats.missing, stats.clock = 5, 2, 1, 3e-6
    stats.late(0.004)
    sent = json.loads(json.dumps(stats.to_json()))
    assert StampStats.from_json(sent).to_json() == stats.to_json()
    assert StampStats.from_json(sent).delays.quantiles((1.0,)) == [0.002]
