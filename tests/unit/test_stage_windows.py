"""What a counter gained in a stage, by hand-made samples."""

from __future__ import annotations

import pytest

from analysis.prometheus_api import Series
from analysis.stage_windows import Window, blocks, gained, spans


def series(*samples):
    return Series({}, [float(t) for t, _ in samples], [float(v) for _, v in samples])


def span(start, end, times, agents=1):
    return spans([Window(1, agents, start, end)], times)[0]


def test_the_gain_starts_at_the_last_sample_before_the_stage():
    counter = series((0, 0), (9, 4), (10, 4), (15, 7), (20, 9), (25, 9))
    assert gained(counter, span(10, 20, counter.times)) == 5


def test_a_series_that_began_later_began_at_zero():
    counter = series((12, 3), (22, 8))
    assert gained(counter, span(10, 20, counter.times)) == 8


def test_an_absent_series_gained_nothing():
    assert gained(None, span(10, 20, [])) == 0


def test_a_restart_counts_from_zero_again():
    counter = series((0, 0), (12, 6), (14, 2), (22, 5))
    assert gained(counter, span(10, 20, counter.times)) == 6 + 2 + 3


def test_neighbours_part_at_a_sample_between_them():
    windows = [Window(1, 4, 0, 10), Window(2, 4, 20, 30)]
    counter = series((0, 0), (5, 3), (15, 7), (25, 9), (35, 12))
    first, second = spans(windows, counter.times)
    assert (gained(counter, first), gained(counter, second)) == (7, 5)
    assert (first.seconds, second.seconds) == (10, 10)


def test_neighbours_without_one_are_pooled():
    windows = [Window(2, 4, 20, 30), Window(1, 4, 0, 10)]
    counter = series((0, 0), (5, 3), (25, 9), (35, 12))
    [pooled] = spans(windows, counter.times)
    assert [window.stage for window in pooled.windows] == [1, 2]
    assert pooled.finished
    assert pooled.seconds == 20
    assert gained(counter, pooled) == 12


def test_a_span_with_an_unfinished_stage_is_not_finished():
    [pooled] = spans([Window(1, 4, 0, 10), Window(2, 4, 12, None)], [0.0, 5.0, 25.0])
    assert not pooled.finished


def test_blocks_come_from_samples_inside_the_window():
    # One completion a second until 10 s, two a second until 20 s; scraped every second.
    counter = series(*((t, min(30, max(t, 2 * t - 10))) for t in range(25)))
    counts, seconds, note = blocks(counter, span(0, 20, counter.times), 30, 0.1)
    assert seconds == pytest.approx(20 / 6)
    assert note == ""
    assert counts[:3] == pytest.approx([10 / 3] * 3)
    assert counts[3:] == pytest.approx([20 / 3] * 3)


def test_blocks_are_never_shorter_than_a_gap_in_the_scrapes():
    counter = series(*((t, t) for t in range(31) if not 5 < t < 20))
    counts, seconds, note = blocks(counter, span(0, 30, counter.times), 30, 0.1)
    assert seconds == pytest.approx(3.0)
    assert counts[0] != counts[1]
    assert note == "Poisson interval, too few scrapes in the window"
    assert sum(counts) == pytest.approx(30)
