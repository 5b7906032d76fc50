"""What raw Prometheus samples say: increases of counters, quantiles of bucketed histograms.

Standard library only. Fits read raw samples: PromQL's rate() extrapolates to the window's edges.
Both functions raise DataError when the series cannot be what it is said to be.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from contract.errors import DataError


@dataclass(frozen=True)
class Increase:
    """What a counter gained between its first and last sample, and that per second."""

    increase: float
    rate: float


@dataclass(frozen=True)
class BucketQuantile:
    """An interpolated quantile and the bounds of the bucket that holds it: the sure part.

    In the +Inf bucket `value` and `low` are the highest finite bound and `high` is infinite.
    """

    value: float
    low: float
    high: float


def _finite(values: Sequence[float], what: str) -> None:
    for value in values:
        if not math.isfinite(value):
            raise DataError(f"{what}: {value!r} found, finite numbers expected")


def counter_increase(t: Sequence[float], v: Sequence[float]) -> Increase:
    """Increase of a counter over samples `v` at seconds `t`, no extrapolation.

    A drop is a restart: the counter began again at 0, so the new value is the step.
    """
    if len(t) != len(v) or len(t) < 2:
        raise DataError(f"counter: {len(t)} times and {len(v)} values found, 2 of each expected")
    _finite(t, "counter time")
    _finite(v, "counter value")
    if any(b <= a for a, b in pairwise(t)):
        raise DataError("counter: times out of order found, rising times expected")
    gained = math.fsum(b - a if b >= a else b for a, b in pairwise(v))
    return Increase(increase=gained, rate=gained / (t[-1] - t[0]))


def histogram_quantile(
    q: float, le: Sequence[float], cumulative: Sequence[float]
) -> BucketQuantile | None:
    """Quantile of a classic histogram, linear inside the bucket; None when it is empty.

    `le` holds the finite upper bounds, `cumulative` one count more: its last is the +Inf bucket.
    The first bucket starts at 0 (Prometheus's own convention).
    """
    _check_buckets(q, le, cumulative)
    total = cumulative[-1]
    if total <= 0:
        return None
    rank = q * total
    index = bisect_left(cumulative, rank) if rank > 0 else _first_filled(cumulative)
    if index >= len(le):
        return BucketQuantile(value=le[-1], low=le[-1], high=math.inf)
    before = cumulative[index - 1] if index else 0.0
    low, high = (le[index - 1] if index else min(0.0, le[0])), le[index]
    value = low + (high - low) * (rank - before) / (cumulative[index] - before)
    return BucketQuantile(value=value, low=low, high=high)


def _first_filled(cumulative: Sequence[float]) -> int:
    return next(i for i, count in enumerate(cumulative) if count > 0)


def _check_buckets(q: float, le: Sequence[float], cumulative: Sequence[float]) -> None:
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q: {q!r} given, 0 <= q <= 1 allowed")
    if not le or len(cumulative) != len(le) + 1:
        raise DataError(
            f"histogram: {len(le)} finite bounds and {len(cumulative)} counts found,"
            " one count more than bounds expected"
        )
    _finite(le, "histogram bound")
    _finite(cumulative, "histogram count")
    if any(b <= a for a, b in pairwise(le)):
        raise DataError("histogram: bounds out of order found, rising bounds expected")
    if cumulative[0] < 0 or any(b < a for a, b in pairwise(cumulative)):
        raise DataError("histogram: falling counts found, cumulative counts expected")
