"""From stages to a law with intervals: the one entry for `analysis fit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fits.bootstrap import (
    Estimate,
    ScalingPoint,
    interval,
    measurement_error,
    resample,
    stage_interval,
)
from analysis.fits.scaling import HINGE, LAWS, Array, Law, LawFit, fit_law, fit_many
from analysis.fits.selection import leave_one_level_out, select
from contract.errors import FitError

_LEVELS_TO_FIT = 3
_LEVELS_TO_SELECT = 4


@dataclass(frozen=True)
class ScalingFit:
    """A law, how sure it is, and what else it could be.

    `selected` is False where three levels cannot choose and the hinge is assumed; then no
    leave-one-level-out error exists and every other law is indistinguishable. `parameters` are
    named as in fitted_models.json; `predicted` gives X(N) at each level; `domain` is the range
    of agents fitted; `n` counts points.
    """

    law: str
    selected: bool
    indistinguishable_from: tuple[str, ...]
    loo_error: dict[str, float]
    parameters: dict[str, Estimate]
    predicted: dict[int, Estimate]
    domain: tuple[int, int]
    n: int


def fit_scaling(
    points: Sequence[ScalingPoint], *, seed: int = 0, resamples: int = 1000
) -> ScalingFit:
    """Choose a law for X(N), fit it in ln X, and give 95 % intervals by bootstrap.

    Deterministic for a seed. Raises FitError, with the points in its text, on fewer than three
    levels of agents, on a throughput that is not positive, and on a stage with under two blocks.
    """
    agents, x = _columns(points)
    levels = np.unique(agents)
    selected = len(levels) >= _LEVELS_TO_SELECT
    fits = {law.name: fit_law(law, agents, x) for law in LAWS}
    errors = {law.name: leave_one_level_out(law, agents, x) for law in LAWS} if selected else {}
    choice = select(errors, measurement_error(points)) if selected else None
    law = choice.law if choice else HINGE
    fit = fits[law.name]
    log_x1, shapes = _refits(fit, agents, points, seed, resamples)
    predicted = _predicted(fit, levels, log_x1, shapes)
    tied = {other.name for other in choice.tied} if choice else set(fits) - {law.name}
    tied |= {name for name in fits if name != law.name and _inside(fits[name], predicted)}
    return ScalingFit(
        law=law.name,
        selected=selected,
        indistinguishable_from=tuple(other.name for other in LAWS if other.name in tied),
        loo_error=choice.loo_error if choice else {},
        parameters=_parameters(fit, agents, log_x1, shapes),
        predicted=predicted,
        domain=(int(levels[0]), int(levels[-1])),
        n=len(points),
    )


def _columns(points: Sequence[ScalingPoint]) -> tuple[Array, Array]:
    levels = {point.agents for point in points}
    if len(levels) < _LEVELS_TO_FIT:
        raise FitError(
            f"throughput against agents: {len(levels)} level(s) found, at least {_LEVELS_TO_FIT}"
            f" needed ({_LEVELS_TO_SELECT} to choose a law); points: {_listed(points)}"
        )
    for point in points:
        if not (0.0 < point.requests_per_second < math.inf and point.agents >= 1):
            raise FitError(
                f"agents={point.agents}: {point.requests_per_second!r} requests/s found, a positive"
                f" throughput expected; points: {_listed(points)}"
            )
    agents = np.array([point.agents for point in points], dtype=float)
    return agents, np.array([point.requests_per_second for point in points], dtype=float)


def _listed(points: Sequence[ScalingPoint]) -> str:
    pairs = (f"N={point.agents} X={point.requests_per_second:.4g}/s" for point in points)
    return ", ".join(pairs) or "none"


def _refits(
    fit: LawFit, agents: Array, points: Sequence[ScalingPoint], seed: int, resamples: int
) -> tuple[Array, Array]:
    freedom = fit.n - fit.law.parameters
    scatter = math.sqrt(fit.rss / freedom) if freedom > 0 else 0.0
    log_x = resample(points, np.random.default_rng(seed), resamples, scatter, freedom)
    return fit_many(fit.law, agents, log_x)


def _predicted(fit: LawFit, levels: Array, log_x1: Array, shapes: Array) -> dict[int, Estimate]:
    draws = np.exp(log_x1[:, None] + fit.law.log_gain(levels, shapes[:, None]))
    values = fit.predict(levels)
    return {int(level): interval(float(values[i]), draws[:, i]) for i, level in enumerate(levels)}


def _inside(fit: LawFit, predicted: dict[int, Estimate]) -> bool:
    """Whether the law's X(N) lies in the chosen law's interval at every level."""
    values = fit.predict(sorted(predicted))
    return all(
        predicted[n].low <= x <= predicted[n].high
        for n, x in zip(sorted(predicted), values, strict=True)
    )


def _parameters(fit: LawFit, agents: Array, log_x1: Array, shapes: Array) -> dict[str, Estimate]:
    law: Law = fit.law
    shape = interval(fit.shape, shapes, law.bounds(agents))
    scale = interval(fit.throughput_n1, np.exp(log_x1))
    if law is not HINGE:
        return {"throughput_n1": scale, law.shape: shape}
    ceiling = np.exp(log_x1) * shapes
    service = interval(1.0 / (fit.throughput_n1 * fit.shape), 1.0 / ceiling)
    return {law.shape: shape, "service_time": service, "throughput_n1": scale}


__all__ = ["Estimate", "ScalingFit", "ScalingPoint", "fit_scaling", "stage_interval"]
