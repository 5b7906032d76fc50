"""Durations counted by the microsecond give the figures of the values one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.steady import quantile
from loadgen.figures.durations import Durations

MICROSECONDS = st.lists(st.integers(0, 10**8) | st.integers(0, 5), max_size=200)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=10)


@given(MICROSECONDS, SHARES)
def test_quantiles_are_exactly_those_of_the_values(gaps, shares):
    values = [gap / 1e6 for gap in gaps]
    assert Durations(gaps).quantiles(shares) == [quantile(values, q) for q in shares]


@given(MICROSECONDS, MICROSECONDS, SHARES)
def test_parts_together_are_the_whole(some, more, shares):
    whole = Durations(some)
    whole.update(more)
    both = Durations(some) + Durations(more)
    assert len(both) == len(whole) == len(some) + len(more)
    assert both.quantiles(shares) == whole.quantiles(shares)
    assert both.mean == whole.mean
    if whole.mean is not None:
        assert whole.mean == pytest.approx(sum([*some, *more]) / len(whole) / 1e6)


@given(st.floats(1e-6, 1e3))
def test_a_coarse_duration_is_within_half_a_percent_and_half_a_microsecond(seconds):
    lags = Durations()
    lags.coarse(seconds)
    (kept,) = lags.quantiles([0.5])
    assert kept == pytest.approx(seconds, rel=0.0051, abs=0.51e-6)


def test_coarse_durations_take_few_entries_however_many_they_are():
    lags = Durations()
    for number in range(100_000):
        lags.coarse(number * 1e-7)  # up to 10 ms
    assert len(lags) == 100_000
    assert lags.distinct <= 2000
