"""Steady state on both sides of the contract: where a transient ends, how sure a mean is.

Pure, standard library only. Load-test data are correlated in time: an interval that treats
them as independent covers far less than it claims, so means come from batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def mser5(values: Sequence[float]) -> int:
    """How many leading values the MSER-5 rule drops as initial transient.

    Minimises sum((b_i - mean_d)^2) / (n - d)^2 over d < n/2 on means of five consecutive
    values (White 1997). Fewer than ten values: nothing is dropped.
    """
    means = [math.fsum(values[i : i + 5]) / 5 for i in range(0, len(values) - 4, 5)]
    n = len(means)
    if n < 2:
        return 0
    total, squares = 0.0, 0.0
    best, best_d = math.inf, 0
    # Walk from the end so that each tail's sums come from the previous one.
    for d in range(n - 1, -1, -1):
        total += means[d]
        squares += means[d] ** 2
        length = n - d
        spread = max(0.0, squares - total**2 / length) / length**2
        if d < n / 2 and spread <= best:
            best, best_d = spread, d
    return 5 * best_d


def batch_means(values: Sequence[float], batches: int = 20) -> list[float]:
    """Means of `batches` equal runs of consecutive values; the remainder at the front is dropped.

    Returns [] when there are fewer than two values per batch.
    """
    size = len(values) // batches
    if size < 2:
        return []
    first = len(values) - size * batches
    return [math.fsum(values[i : i + size]) / size for i in range(first, len(values), size)]


def trend(values: Sequence[float]) -> tuple[float, float]:
    """Mann-Kendall trend of a short series: (z score, relative drift).

    z follows the normal law under no trend (ties corrected); the drift is the mean of the last
    third over the mean of the first third, minus one. Needs six values, else (0, 0).
    """
    n = len(values)
    if n < 6:
        return 0.0, 0.0
    s = sum(
        (values[j] > values[i]) - (values[j] < values[i]) for i in range(n) for j in range(i + 1, n)
    )
    ties = [values.count(value) for value in set(values)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    z = 0.0 if s == 0 or variance <= 0 else (s - math.copysign(1, s)) / math.sqrt(variance)
    third = n // 3
    first, last = math.fsum(values[:third]) / third, math.fsum(values[-third:]) / third
    return z, (last / first - 1 if first else 0.0)


def quantile(values: Sequence[float], q: float) -> float | None:
    """The q-quantile by linear interpolation between order statistics; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
