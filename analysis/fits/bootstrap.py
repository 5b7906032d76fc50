"""Intervals from blocks of time: how far each throughput, and what is fitted to it, may be off.

Requests that follow each other are not independent; counts in blocks longer than the
correlation time nearly are (batch means). Resampled deviations are widened to the t
distribution of the degrees of freedom there are, so that few blocks give honest intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from analysis.fits.scaling import Array
from contract.errors import FitError

CONFIDENCE = 0.95
_FEWEST_MERGED = 10
_CORRELATION = 0.1


@dataclass(frozen=True)
class ScalingPoint:
    """One stage: its throughput and what was completed in each equal block of its window.

    `block_counts` are requests per block of `block_seconds`, in order of time.
    """

    agents: int
    requests_per_second: float
    block_counts: tuple[float, ...]
    block_seconds: float
    repeat: int = 0


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    `one_sided`: the value sits on an edge of what is possible or was searched; that end of the
    interval is the edge itself, the other end a one-sided limit. None: not an interval of a
    bounded quantity.
    """

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE
    one_sided: bool | None = None


def _lag1(values: Array) -> float:
    deviation = values - values.mean()
    power = float(deviation @ deviation)
    return float(deviation[1:] @ deviation[:-1]) / power if power > 0.0 else 0.0


def uncorrelated_blocks(counts: Sequence[float]) -> Array:
    """Counts per block, neighbours merged in pairs until they no longer follow each other.

    Stops below 20 blocks (fewer than ten say little about their own scatter). An odd block at
    the front goes into its neighbour's place: it is dropped, and the scatter kept.
    """
    blocks = np.asarray(counts, dtype=float)
    while len(blocks) >= 2 * _FEWEST_MERGED and abs(_lag1(blocks)) > _CORRELATION:
        even = blocks[len(blocks) % 2 :]
        blocks = (even[0::2] + even[1::2]) / 2.0
    return blocks


def stage_interval(point: ScalingPoint, confidence: float = CONFIDENCE) -> Estimate:
    """Requests per second of one stage with the t interval of its batch means.

    Raises FitError on fewer than two blocks: one block has no scatter.
    """
    blocks = _blocks(point)
    error = max(_relative_se(blocks), _resolution(point))
    half = float(stdtrit(len(blocks) - 1, 0.5 + confidence / 2.0)) * error
    x = point.requests_per_second
    return Estimate(value=x, low=max(0.0, x * (1.0 - half)), high=x * (1.0 + half))


def _blocks(point: ScalingPoint) -> Array:
    blocks = uncorrelated_blocks(point.block_counts)
    if len(blocks) < 2 or not blocks.sum() > 0.0:
        raise FitError(
            f"agents={point.agents}: {len(blocks)} block(s) with {blocks.sum():g} requests found,"
            " at least 2 blocks with a request needed"
        )
    return blocks


def _relative_se(blocks: Array) -> float:
    return float(blocks.std(ddof=1) / np.sqrt(len(blocks)) / blocks.mean())


def _resolution(point: ScalingPoint) -> float:
    """Relative error that counting whole requests leaves, however regular they are.

    Each edge of the window cuts a request at a uniform place: two residuals of variance 1/12.
    """
    return 1.0 / (math.sqrt(6.0) * math.fsum(point.block_counts))


def measurement_error(points: Sequence[ScalingPoint]) -> float:
    """Root mean square of the points' relative standard errors, from their own blocks."""
    errors = [max(_relative_se(_blocks(point)), _resolution(point)) for point in points]
    return float(np.sqrt(np.mean(np.square(errors))))


def _widening(freedom: int) -> float:
    """By how much the t distribution is wider than the normal at the usual confidence."""
    p = 0.5 + CONFIDENCE / 2.0
    return float(stdtrit(freedom, p) / stdtrit(1e9, p))


def _resampled_means(rng: np.random.Generator, values: Array, resamples: int) -> Array:
    """Deviations of resampled means from the mean, unbiased in variance."""
    n = len(values)
    picks = values[rng.integers(0, n, size=(resamples, n))].mean(axis=1)
    return np.asarray((picks - values.mean()) * np.sqrt(n / (n - 1.0)))


def _over_blocks(rng: np.random.Generator, points: Sequence[ScalingPoint], n: int) -> Array:
    blocks = [_blocks(point) for point in points]
    widen = _widening(sum(len(block) - 1 for block in blocks))
    # Relative deviations become deviations of ln X; half a request keeps the logarithm finite.
    columns = [
        np.log(
            np.maximum(
                1.0 + widen * _resampled_means(rng, block, n) / block.mean(), 0.5 / block.sum()
            )
        )
        for block in blocks
    ]
    return np.stack(columns, axis=1)


def _over_repetitions(rng: np.random.Generator, agents: Array, log_x: Array, n: int) -> Array:
    """Deviation of ln X for each point: within a level, all points share the level's draw."""
    levels = np.unique(agents)
    widen = _widening(len(agents) - len(levels))
    deviations = np.empty((n, len(agents)))
    for level in levels:
        rows = agents == level
        deviations[:, rows] = widen * _resampled_means(rng, log_x[rows], n)[:, None]
    return deviations


def resample(
    points: Sequence[ScalingPoint],
    rng: np.random.Generator,
    resamples: int,
    scatter: float,
    freedom: int,
) -> Array:
    """`resamples` versions of ln X at every point (resamples × points).

    Over repetitions where every level has three or more, else over blocks of time. `scatter` is
    the standard deviation of ln X about the law, known to `freedom` degrees of freedom: what
    exceeds the blocks' own share of it (stages differ by more than one stage's blocks can show)
    is added as normal noise, and never less than counting whole requests leaves.
    """
    agents = np.array([point.agents for point in points], dtype=float)
    log_x = np.log([point.requests_per_second for point in points])
    counts = np.unique(agents, return_counts=True)[1]
    if counts.min() >= 3:
        return np.asarray(log_x + _over_repetitions(rng, agents, log_x, resamples))
    deviations = _over_blocks(rng, points, resamples)
    least = float(np.mean([_resolution(point) ** 2 for point in points]))
    unseen = max(scatter**2, least) - float(deviations.var(axis=0).mean())
    spread = _widening(max(2, freedom)) * np.sqrt(max(0.0, unseen))
    noise = rng.standard_normal(deviations.shape) * spread
    return np.asarray(log_x + deviations + noise)


def interval(value: float, draws: Array, bounds: tuple[float, float] | None = None) -> Estimate:
    """Percentile interval of `draws` about `value`; one-sided where value sits on a bound."""
    tail = 100.0 * (1.0 - CONFIDENCE)
    if bounds is not None and value <= bounds[0] * (1.0 + 1e-9):
        return Estimate(value, bounds[0], float(np.percentile(draws, 100.0 - tail)), one_sided=True)
    if bounds is not None and value >= bounds[1] * (1.0 - 1e-9):
        return Estimate(value, float(np.percentile(draws, tail)), bounds[1], one_sided=True)
    low, high = (float(q) for q in np.percentile(draws, [tail / 2.0, 100.0 - tail / 2.0]))
    one_sided = None if bounds is None else False
    return Estimate(value, min(low, value), max(high, value), one_sided=one_sided)
