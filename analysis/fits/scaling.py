"""How throughput grows with concurrency: three laws, each a scale X1 and one shape.

    hinge    X(N) = X1 min(N, M)                    a queue in front of M places
    amdahl   X(N) = X1 N / (1 + sigma (N - 1))      contention; equals a batching step a + c b
    power    X(N) = X1 N^(1 - alpha)                empirical, no ceiling

N agents in a closed loop, X requests per second. Residuals are those of ln X (constant relative
scatter, as load tests show); the scale is free, because dividing by a measured X(1) would put
its error into every row. The shape is the exact minimum of the profile over it, so a fit is
deterministic and needs no start value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from contract.errors import FitError

Array = npt.NDArray[np.float64]

_GRID = 257
_GOLDEN = (5.0**0.5 - 1.0) / 2.0


@dataclass(frozen=True)
class Law:
    """One law of one shape: `shape` names that parameter, in `unit`.

    `log_gain(agents, shape)` is ln (X(N) / X1);
    `bounds(agents)` are the edges of the search, given the levels; `profile(agents, log_x)`
    returns the best shape for every row of `log_x` (fits × points).
    """

    name: str
    formula: str
    shape: str
    unit: str
    parameters: int
    log_gain: Callable[[Array, Array], Array]
    bounds: Callable[[Array], tuple[float, float]]
    profile: Callable[[Array, Array], Array]


@dataclass(frozen=True)
class LawFit:
    """A fitted law; `rss` is the sum of squared residuals of ln X over `n` points."""

    law: Law
    throughput_n1: float
    shape: float
    rss: float
    n: int

    def predict(self, agents: npt.ArrayLike) -> Array:
        """Requests per second at each number of agents."""
        gain = self.law.log_gain(np.asarray(agents, dtype=float), np.array([[self.shape]]))
        return np.asarray(self.throughput_n1 * np.exp(gain[0]))


@dataclass(frozen=True)
class Efficiency:
    """Per-agent efficiency, speedup over one agent, and the speedup's limit (None: none)."""

    eta: float
    speedup: float
    ceiling: float | None


def amdahl_efficiency(sigma: float, n: float) -> Efficiency:
    """eta = 1 / (1 + sigma (N - 1)), sigma the contended share (Amdahl 1967)."""
    if not (0.0 <= sigma <= 1.0 and n >= 1.0):
        raise ValueError(f"sigma, n: {sigma!r}, {n!r} given, 0 <= sigma <= 1 <= n allowed")
    eta = 1.0 / (1.0 + sigma * (n - 1.0))
    return Efficiency(eta=eta, speedup=n * eta, ceiling=1.0 / sigma if sigma else None)


def _rss(law: Law, agents: Array, log_x: Array, shape: Array) -> Array:
    residual = log_x - law.log_gain(agents, shape[:, None])
    return np.asarray(((residual - residual.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))


def _hinge_gain(agents: Array, shape: Array) -> Array:
    return np.log(np.minimum(agents, shape))


def _hinge_profile(agents: Array, log_x: Array) -> Array:
    """Between two levels the residuals are linear in ln M: each segment has a closed form."""
    levels = np.unique(agents)
    free = log_x - np.log(agents)
    candidates = []
    for low, high in pairwise(levels):
        rising = agents <= low
        knee = log_x[:, ~rising].mean(axis=1) - free[:, rising].mean(axis=1)
        candidates.append(np.exp(np.clip(knee, np.log(low), np.log(high))))
    rss = np.stack([_rss(HINGE, agents, log_x, shape) for shape in candidates])
    return np.asarray(np.stack(candidates)[rss.argmin(axis=0), np.arange(len(log_x))])


def _amdahl_gain(agents: Array, shape: Array) -> Array:
    return np.asarray(np.log(agents) - np.log1p(shape * (agents - 1.0)))


def _amdahl_profile(agents: Array, log_x: Array) -> Array:
    """Grid in sqrt(sigma), then golden section around the best point, all rows at once."""
    root = np.linspace(0.0, 1.0, _GRID)
    gain = _amdahl_gain(agents, root[:, None] ** 2)
    gain -= gain.mean(axis=1, keepdims=True)
    centred = log_x - log_x.mean(axis=1, keepdims=True)
    best = (((gain**2).sum(axis=1))[None, :] - 2.0 * centred @ gain.T).argmin(axis=1)
    low, high = root[np.maximum(best - 1, 0)], root[np.minimum(best + 1, _GRID - 1)]
    for _ in range(45):
        step = _GOLDEN * (high - low)
        left, right = high - step, low + step
        lower = _rss(AMDAHL, agents, log_x, left**2) <= _rss(AMDAHL, agents, log_x, right**2)
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    edges = np.stack([low, 0.5 * (low + high), high])
    rss = np.stack([_rss(AMDAHL, agents, log_x, edge**2) for edge in edges])
    return np.asarray(edges[rss.argmin(axis=0), np.arange(len(log_x))] ** 2)


def _power_gain(agents: Array, shape: Array) -> Array:
    return (1.0 - shape) * np.log(agents)


def _power_profile(agents: Array, log_x: Array) -> Array:
    """ln X is a line in ln N: least squares, clipped to the bounds (the profile is convex)."""
    log_n = np.log(agents) - np.log(agents).mean()
    slope = log_x @ log_n / (log_n @ log_n)
    return np.asarray(np.clip(1.0 - slope, *POWER.bounds(agents)))


HINGE = Law(
    name="hinge",
    formula="X(N) = min(N, M) / (M S)",
    shape="hinge_m",
    unit="agents",
    parameters=2,
    log_gain=_hinge_gain,
    bounds=lambda agents: (float(agents.min()), float(agents.max())),
    profile=_hinge_profile,
)
AMDAHL = Law(
    name="amdahl",
    formula="X(N) = X1 N / (1 + sigma (N - 1))",
    shape="amdahl_sigma",
    unit="1",
    parameters=2,
    log_gain=_amdahl_gain,
    bounds=lambda _agents: (0.0, 1.0),
    profile=_amdahl_profile,
)
POWER = Law(
    name="power",
    formula="X(N) = X1 N^(1 - alpha)",
    shape="power_alpha",
    unit="1",
    parameters=2,
    log_gain=_power_gain,
    bounds=lambda _agents: (0.0, 1.5),
    profile=_power_profile,
)
# In the order in which ties are settled.
LAWS = (HINGE, AMDAHL, POWER)


def fit_many(law: Law, agents: Array, log_x: Array) -> tuple[Array, Array]:
    """(ln X1, shape) for each row of `log_x` (fits × points) at `agents` (points)."""
    shape = law.profile(agents, log_x)
    return (log_x - law.log_gain(agents, shape[:, None])).mean(axis=1), shape


def fit_law(law: Law, agents: npt.ArrayLike, throughput: npt.ArrayLike) -> LawFit:
    """Fit one law; one row per point, repetitions being rows of their own.

    Raises FitError on fewer than two levels or a throughput that is not positive and finite.
    """
    n, x = np.asarray(agents, dtype=float), np.asarray(throughput, dtype=float)
    if n.shape != x.shape or len(np.unique(n)) < 2:
        raise FitError(f"{law.name}: {len(np.unique(n))} level(s) of agents, at least 2 needed")
    if not (np.isfinite(x).all() and (x > 0.0).all() and (n >= 1.0).all()):
        raise FitError(f"{law.name}: points {_pairs(n, x)}, positive throughput expected at each")
    log_x = np.log(x)[None, :]
    log_x1, shape = fit_many(law, n, log_x)
    return LawFit(
        law=law,
        throughput_n1=float(np.exp(log_x1[0])),
        shape=float(shape[0]),
        rss=float(_rss(law, n, log_x, shape)[0]),
        n=len(n),
    )


def _pairs(agents: Array, throughput: Array) -> str:
    return ", ".join(f"({n:g}, {x:g})" for n, x in zip(agents, throughput, strict=True))
