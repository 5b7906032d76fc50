"""Waiting, in closed form: single and many servers, continuous batching, closed loops.

Standard library only and fast: the planner calls these dozens of times per answer.

Symbols are those of the field: lambda (`lam`) arrivals per second, `s` service time in seconds,
rho = lambda * s / servers, Wq the mean wait, T the mean sojourn (wait + service), Lq the mean
number waiting. Times come out in the unit `s` came in. Every function raises ValueError on an
argument outside its domain; a queue at or above saturation (rho >= 1) has no steady state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

# Poisson terms of mean <= 1 beyond this count sum to less than 1e-27: nothing in a float64.
_POISSON_TERMS = 28
# The running sum of the queue-length law carries about 1e-13 of rounding; stay well above it.
_HIGHEST_P = 1.0 - 1e-9


@dataclass(frozen=True)
class QueueMeans:
    """Mean wait `wq` and sojourn `t` (unit of the service time), mean number waiting `lq`."""

    wq: float
    t: float
    lq: float


def _require(condition: bool, field: str, given: float, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{field}: {given!r} given, {allowed} allowed")


def _require_positive(**given: float) -> None:
    for field, value in given.items():
        _require(0.0 < value < math.inf, field, value, "a positive finite number")


def _require_stable(rho: float, s: float = 1.0) -> None:
    _require(0.0 <= rho < 1.0, "rho", rho, "0 <= rho < 1")
    _require_positive(s=s)


def little_law(lam: float, w: float) -> float:
    """Mean number inside, L = lambda * W (Little 1961); any stationary system."""
    _require(0.0 <= lam < math.inf, "lam", lam, "a non-negative finite number")
    _require(0.0 <= w < math.inf, "w", w, "a non-negative finite number")
    return lam * w


def md1_mean(rho: float, s: float) -> QueueMeans:
    """M/D/1 means: Wq = rho s / (2 (1 - rho)) (Pollaczek-Khinchine with no service variance)."""
    _require_stable(rho, s)
    wq = rho * s / (2.0 * (1.0 - rho))
    return QueueMeans(wq=wq, t=s + wq, lq=rho / s * wq)


def _poisson(mean: float) -> list[float]:
    weights = [math.exp(-mean)]
    for j in range(1, _POISSON_TERMS):
        weights.append(weights[-1] * mean / j)
    return weights


def _md1_law(rho: float) -> Iterator[float]:
    """P(0 in system), P(1), P(2), … of M/D/1, without end.

    Balances the flow across each level of the chain embedded at departures,
    p[j+1] a[0] = p[0] P(A > j) + sum_i p[i] P(A > j - i + 1), A the arrivals in one service:
    every term is positive, so nothing cancels, and only the last few i matter.
    """
    arrivals = _poisson(rho)
    tail = [math.fsum(arrivals[j + 1 :]) for j in range(_POISSON_TERMS)]
    recent = [1.0 - rho]
    yield recent[0]
    p0 = recent[0]
    level = 0
    while True:
        inflow = p0 * tail[level] if level < _POISSON_TERMS else 0.0
        window = recent[1:] if level < _POISSON_TERMS else recent
        inflow += sum(p * q for p, q in zip(reversed(window), tail[1:], strict=False))
        recent.append(inflow / arrivals[0])
        if len(recent) > _POISSON_TERMS:
            del recent[0]
        level += 1
        yield recent[-1]


def _md1_cdf_in_step(cumulative: list[float], rho: float, ahead: float) -> float:
    """P(W <= k - ahead) in service times, 0 < ahead <= 1, `cumulative[m]` = P(m or fewer inside).

    k = len(cumulative) - 1. A customer has waited by then when, `ahead` before a whole number of
    services, no more than k remain: all terms positive (Franx 2001, for one server).
    """
    weights = _poisson(rho * ahead)
    return sum(q * w for q, w in zip(reversed(cumulative[1:]), weights, strict=False))


def md1_wait_cdf(rho: float, s: float, x: float) -> float:
    """P(W <= x) of M/D/1, exact to about 1e-12 at every rho < 1 and every x."""
    _require_stable(rho, s)
    if x < 0.0:
        return 0.0
    steps = math.floor(x / s) + 1
    cumulative, total = [], 0.0
    for p in islice(_md1_law(rho), steps + 1):
        total += p
        cumulative.append(total)
    return min(1.0, _md1_cdf_in_step(cumulative, rho, steps - x / s))


def md1_wait_quantile(rho: float, s: float, p: float) -> float:
    """The wait that a share `p` of customers does not exceed; 0 while p <= P(W = 0) = 1 - rho.

    Exact: P(W <= k s) = P(k or fewer in the system) names the service-long step that holds the
    quantile, bisection inside it does the rest.
    """
    _require_stable(rho, s)
    _require(0.0 <= p <= _HIGHEST_P, "p", p, f"0 <= p <= {_HIGHEST_P}")
    if p <= 1.0 - rho:
        return 0.0
    cumulative: list[float] = []
    total = 0.0
    for probability in _md1_law(rho):
        total += probability
        cumulative.append(total)
        if total >= p:
            break
    low, high = 0.0, 1.0  # how far before the end of the step
    while high - low > 1e-13:
        middle = 0.5 * (low + high)
        if _md1_cdf_in_step(cumulative, rho, middle) >= p:
            low = middle
        else:
            high = middle
    return s * (len(cumulative) - 1 - low)


def md1_sojourn_quantile(rho: float, s: float, p: float) -> float:
    """Quantile of wait + service; service is constant, so it only shifts the wait."""
    return s + md1_wait_quantile(rho, s, p)


def md1_percentiles(rho: float, s: float) -> dict[str, float]:
    """Wait at 50, 95 and 99 % (`w50` …) and sojourn at 95 and 99 % (`t95`, `t99`)."""
    w50, w95, w99 = (md1_wait_quantile(rho, s, p) for p in (0.50, 0.95, 0.99))
    return {"w50": w50, "w95": w95, "w99": w99, "t95": s + w95, "t99": s + w99}


def mm1(rho: float, mu: float) -> dict[str, float]:
    """M/M/1: mean wait `wq` and the sojourn quantiles `t50`, `t95`, `t99` (exponential)."""
    _require_stable(rho)
    _require_positive(mu=mu)
    rate = mu * (1.0 - rho)
    sojourn = {f"t{p}": -math.log1p(-p / 100) / rate for p in (50, 95, 99)}
    return {"wq": rho / rate, **sojourn}


def erlang_c(c: int, offered: float) -> float:
    """P(wait) of M/M/c at `offered` = lambda / mu erlangs, by the Erlang B recursion."""
    _require(c >= 1, "c", c, "at least one server")
    _require(0.0 <= offered < c, "offered", offered, "0 <= offered < c")
    blocked = 1.0
    for k in range(1, c + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1.0 - offered / c * (1.0 - blocked))


def mmc(c: int, lam: float, mu: float) -> dict[str, float]:
    """M/M/c: P(wait), mean wait, and the wait quantiles `w95`, `w99` (0 inside the atom)."""
    _require_positive(mu=mu)
    p_wait = erlang_c(c, lam / mu)
    spare = c * mu - lam
    waits = {f"w{p}": _tail_quantile(p_wait, spare, p / 100) for p in (95, 99)}
    return {"p_wait": p_wait, "wq": p_wait / spare, **waits}


def _tail_quantile(p_wait: float, rate: float, p: float) -> float:
    """Quantile of a wait that is 0 with 1 - p_wait and exponential with `rate` otherwise."""
    return max(0.0, math.log(p_wait / (1.0 - p)) / rate) if p_wait > 0.0 else 0.0


def closed_mva(n: int, d: float, z: float) -> dict[str, float]:
    """Closed loop of n clients, one queue of demand d, delay z: exact mean value analysis.

    `x` requests per second, `r` seconds at the queue, `x_bound` = min(n / (d + z), 1 / d),
    `n_star` = (d + z) / d, where the two bounds cross (Reiser and Lavenberg 1980).
    """
    _require(n >= 1, "n", n, "at least one client")
    _require_positive(d=d)
    _require(0.0 <= z < math.inf, "z", z, "a non-negative finite number")
    queue = x = r = 0.0
    for clients in range(1, n + 1):
        r = d * (1.0 + queue)
        x = clients / (r + z)
        queue = x * r
    return {"x": x, "r": r, "x_bound": min(n / (d + z), 1.0 / d), "n_star": (d + z) / d}
