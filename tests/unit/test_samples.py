from __future__ import annotations

import math

import pytest

from analysis.samples import counter_increase, histogram_quantile
from contract.errors import DataError


def test_a_restart_counts_from_zero() -> None:
    gained = counter_increase([0, 10, 20, 30], [100, 130, 4, 24])
    assert (gained.increase, gained.rate) == (54, 1.8)


@pytest.mark.parametrize(
    ("t", "v", "found"),
    [
        ([1.0], [2.0], "1 times and 1 values"),
        ([1.0, 2.0], [2.0], "2 times and 1 values"),
        ([2.0, 1.0], [2.0, 3.0], "times out of order"),
        ([1.0, 2.0], [2.0, math.nan], "nan"),
    ],
)
def test_an_impossible_counter_is_a_data_error(t: list[float], v: list[float], found: str) -> None:
    with pytest.raises(DataError, match=found):
        counter_increase(t, v)


def test_a_quantile_comes_with_the_bucket_that_holds_it() -> None:
    quantile = histogram_quantile(0.5, [1.0, 2.0, 4.0], [10, 30, 40, 40])
    assert quantile is not None
    assert (quantile.value, quantile.low, quantile.high) == (1.5, 1.0, 2.0)


def test_beyond_the_last_bound_only_the_bound_is_known() -> None:
    quantile = histogram_quantile(0.99, [1.0, 2.0], [10, 20, 40])
    assert quantile is not None
    assert (quantile.value, quantile.low, quantile.high) == (2.0, 2.0, math.inf)


def test_the_lowest_quantile_skips_empty_buckets() -> None:
    quantile = histogram_quantile(0.0, [1.0, 2.0], [0, 20, 20])
    assert quantile is not None
    assert (quantile.value, quantile.low, quantile.high) == (1.0, 1.0, 2.0)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert histogram_quantile(0.5, [1.0], [0, 0]) is None


@pytest.mark.parametrize(
    ("le", "cumulative"), [([1.0], [1]), ([2.0, 1.0], [1, 2, 3]), ([1.0, 2.0], [3, 2, 3]), ([], [])]
)
def test_impossible_buckets_are_a_data_error(le: list[float], cumulative: list[float]) -> None:
    with pytest.raises(DataError, match="histogram"):
        histogram_quantile(0.5, le, cumulative)
