"""Goodput: which requests met their service objectives, and how sure the share is. Pure.

An objective is met or not by each request alone; a request that did not end ok meets none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contract.errors import ConfigError, nearest
from contract.records import RequestRecord

NAMES = ("ttft", "tpot", "itl", "e2el")
ALLOWED = "ttft:200 tpot:50 itl:50 e2el:5000 (milliseconds, any of them)"


@dataclass(frozen=True, slots=True)
class Objectives:
    """Upper limits in seconds, None where none was asked."""

    ttft: float | None = None
    tpot: float | None = None
    itl: float | None = None
    e2el: float | None = None

    def met_by(self, record: RequestRecord) -> bool:
        """Whether `record` ended ok and within every limit.

        A reply of one token has no tpot and one of a single chunk no itl: those limits are met.
        An ok record without the instant that a limit is about does not meet it.
        """
        if record.outcome != "ok" or record.last_token is None:
            return False
        if record.first_token is None and any((self.ttft, self.tpot, self.itl)):
            return False
        return all(
            limit is None or seen is None or seen <= limit
            for limit, seen in (
                (self.ttft, record.ttft),
                (self.tpot, record.tpot),
                (self.itl, _mean_gap(record)),
                (self.e2el, record.latency),
            )
        )

    def __str__(self) -> str:
        """The notation that gives these objectives back."""
        asked = [(name, getattr(self, name)) for name in NAMES]
        return " ".join(f"{name}:{limit * 1e3:g}" for name, limit in asked if limit is not None)


@dataclass(frozen=True, slots=True)
class Attainment:
    """The share of requests that met the objectives, with its confidence interval."""

    met: int
    total: int
    share: float
    low: float
    high: float


def parse_goodput(text: str | Sequence[str], field: str = "--goodput") -> Objectives:
    """Objectives such as `ttft:200 tpot:50 e2el:5000`, in milliseconds (vLLM's notation)."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else list(text)
    if not parts:
        raise ConfigError(f"{field}: no objective given, allowed: {ALLOWED}")
    limits: dict[str, float] = {}
    for part in parts:
        name, _, value = part.partition(":")
        if name not in NAMES:
            hint = nearest(name, NAMES)
            raise ConfigError(f"{field}: unknown objective '{name}'{hint} (allowed: {ALLOWED})")
        if name in limits:
            raise ConfigError(f"{field}: '{name}' is given twice, allowed: each once")
        limits[name] = _milliseconds(value, part, field)
    return Objectives(**limits)


def attainment(met: int, total: int, confidence: float = 0.95) -> Attainment:
    """The share `met / total` with its Wilson interval. ValueError unless 0 <= met <= total > 0.

    It takes requests as independent; those of one stage share a queue, so between repeats is
    the better place to look at the spread.
    """
    low, high = wilson(met, total, confidence)
    return Attainment(met, total, met / total, low, high)


def wilson(met: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval of a share (Wilson 1927): covers `confidence` on average.

    Counts need not be whole: those of requests that are alike stand for fewer.
    """
    from statistics import NormalDist

    _check(met, total, confidence)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (met + z2 / 2) / (total + z2)
    half = math.sqrt(z2 * (met * (total - met) / total + z2 / 4)) / (total + z2)
    return (centre - half if met else 0.0), (centre + half if met < total else 1.0)


def clopper_pearson(met: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a share (Clopper and Pearson 1934): covers at least that."""
    _check(met, total, confidence)
    tail = (1 - confidence) / 2
    low = _beta_quantile(met, total - met + 1, tail) if met else 0.0
    high = _beta_quantile(met + 1, total - met, 1 - tail) if met < total else 1.0
    return low, high


def _mean_gap(record: RequestRecord) -> float | None:
    """Mean gap between chunks with content, seconds."""
    if record.chunks < 2 or record.first_token is None or record.last_token is None:
        return None
    return (record.last_token - record.first_token) / (record.chunks - 1)


def _milliseconds(value: str, part: str, field: str) -> float:
    try:
        limit = float(value)
    except ValueError:
        raise ConfigError(f"{field}: '{part}' is not understood, allowed: {ALLOWED}") from None
    if not 0 < limit < math.inf:
        raise ConfigError(f"{field}: '{part}' given, allowed: a positive number of milliseconds")
    return limit / 1e3


def _check(met: float, total: float, confidence: float) -> None:
    if not 0 <= met <= total or total < 1 or not 0 < confidence < 1:
        raise ValueError(f"{met} of {total} at confidence {confidence}")


def _beta_quantile(a: float, b: float, p: float) -> float:
    """Bisection on the regularised incomplete beta function."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (Lentz's method; NIST DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    fraction = d
    for m in range(1, 5000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction
