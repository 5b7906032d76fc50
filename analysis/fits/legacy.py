"""Efficiency fits as the earlier reports made them: linear space, no weights, means as rows.

eta(N) is throughput per agent over that of one agent, pinned at eta(1) = 1 except where said.
They reproduce printed numbers and compare laws on published tables; new data go through
`analysis.fits.scaling`. Raise FitError when there are fewer than two levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fits.scaling import Array
from contract.errors import FitError


@dataclass(frozen=True)
class LegacyAmdahl:
    """`sigma` is the contended share; `s_document` = 1 - sigma is what the reports print."""

    sigma: float
    s_document: float


@dataclass(frozen=True)
class HingeEfficiency:
    """Knee `M` of min(1, M / N), root mean square errors of hinge and Amdahl, the better one."""

    M: float
    rmse_hinge: float
    rmse_amdahl: float
    best: str


@dataclass(frozen=True)
class LegacyPower:
    """eta = c N^-alpha with a free prefactor: two parameters, so not comparable by R2."""

    alpha: float
    c: float


def _rows(n: Sequence[float], eta: Sequence[float]) -> tuple[Array, Array]:
    agents, efficiency = np.asarray(n, dtype=float), np.asarray(eta, dtype=float)
    if agents.shape != efficiency.shape or len(np.unique(agents)) < 2:
        raise FitError(f"efficiency: {len(n)} levels, {len(eta)} values, 2 or more pairs needed")
    return agents, efficiency


def _minimum(loss: Callable[[Array], Array], low: float, high: float) -> float:
    """Minimum by repeated refinement of a grid: deterministic, blind to shallow local minima."""
    first, last = low, high
    while True:
        grid = np.linspace(low, high, 401)
        best = grid[int(loss(grid[:, None]).argmin())]
        step = grid[1] - grid[0]
        if step < 1e-13 * max(1.0, abs(best)):
            return float(best)
        low, high = max(first, best - 2 * step), min(last, best + 2 * step)


def _amdahl(agents: Array, sigma: Array | float) -> Array:
    return np.asarray(1.0 / (1.0 + sigma * (agents - 1.0)))


def _rmse(residual: Array) -> float:
    return float(np.sqrt((residual**2).mean()))


def legacy_fit_amdahl(n: Sequence[float], eta: Sequence[float]) -> LegacyAmdahl:
    """Unweighted least squares of 1 / (1 + sigma (N - 1)) on eta, the row N = 1 included."""
    agents, efficiency = _rows(n, eta)
    sigma = _minimum(
        lambda s: np.asarray(((_amdahl(agents, s) - efficiency) ** 2).sum(axis=1)), 0.0, 1.0
    )
    return LegacyAmdahl(sigma=sigma, s_document=1.0 - sigma)


def fit_hinge_efficiency(n: Sequence[float], eta: Sequence[float]) -> HingeEfficiency:
    """Least squares of min(1, M / N) on eta, beside `legacy_fit_amdahl` on the same rows."""
    agents, efficiency = _rows(n, eta)
    m = _minimum(
        lambda m: np.asarray(((np.minimum(1.0, m / agents) - efficiency) ** 2).sum(axis=1)),
        float(agents.min()),
        float(agents.max()),
    )
    hinge = _rmse(np.minimum(1.0, m / agents) - efficiency)
    amdahl = _rmse(_amdahl(agents, legacy_fit_amdahl(n, eta).sigma) - efficiency)
    best = "hinge" if hinge <= amdahl else "amdahl"
    return HingeEfficiency(M=m, rmse_hinge=hinge, rmse_amdahl=amdahl, best=best)


def legacy_fit_power_free(n: Sequence[float], eta: Sequence[float]) -> LegacyPower:
    """Least squares of c N^-alpha on eta; c is linear, so only alpha is searched."""
    agents, efficiency = _rows(n, eta)

    def prefactor(alpha: Array) -> Array:
        basis = agents**-alpha
        return np.asarray((basis @ efficiency) / (basis**2).sum(axis=1))

    def loss(alpha: Array) -> Array:
        model = prefactor(alpha)[:, None] * agents**-alpha
        return np.asarray(((model - efficiency) ** 2).sum(axis=1))

    alpha = _minimum(loss, 0.0, 1.5)
    return LegacyPower(alpha=alpha, c=float(prefactor(np.array([[alpha]]))[0]))
