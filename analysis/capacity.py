"""From token rates to replicas, hours and dollars. Standard library only.

USD per hour, tokens per second (`tps`), requests per second; a month is 30 days of 24 hours.
Every function raises ValueError on a rate, count or price that is not positive and finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HOURS_PER_MONTH = 720.0
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600.0


@dataclass(frozen=True)
class TokenCost:
    """Of one replica that is never idle: USD per million tokens, USD per month."""

    usd_per_1m: float
    usd_month: float


@dataclass(frozen=True)
class WorkerCost:
    """Replicas (a fraction: a lower bound), USD per million tokens, USD per month."""

    workers: float
    usd_per_1m: float
    usd_month: float


def _require_positive(**given: float) -> None:
    for field, value in given.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{field}: {value!r} given, a positive finite number allowed")


def service_time(tokens: float, tps: float) -> float:
    """Seconds one request holds the GPU: tokens / tps."""
    _require_positive(tokens=tokens, tps=tps)
    return tokens / tps


def request_seconds(
    prompt_tokens: float, output_tokens: float, prefill_tps: float, decode_tps: float
) -> float:
    """GPU seconds per request, P / prefill + G / decode: the two rates differ a hundredfold."""
    prefill = service_time(prompt_tokens, prefill_tps) if prompt_tokens else 0.0
    return prefill + service_time(output_tokens, decode_tps)


def request_usd(seconds: float, usd_hour: float) -> float:
    """USD for `seconds` of one replica."""
    _require_positive(seconds=seconds, usd_hour=usd_hour)
    return seconds / 3600.0 * usd_hour


def cost_per_1m(tps: float, usd_hour: float) -> TokenCost:
    """USD per million tokens at `tps` without a pause, and USD per month."""
    _require_positive(tps=tps, usd_hour=usd_hour)
    return TokenCost(usd_per_1m=usd_hour / (tps * 3600.0) * 1e6, usd_month=month_usd(1, usd_hour))


def workers_and_cost(tps: float, tokens_month: float, usd_hour: float) -> WorkerCost:
    """Replicas for `tokens_month` at full utilisation, and what only the used hours cost.

    A lower bound on both: traffic is never flat and replicas are whole. See `replicas_needed`.
    """
    _require_positive(tps=tps, tokens_month=tokens_month, usd_hour=usd_hour)
    usd_per_1m = 1e6 / tps / 3600.0 * usd_hour
    return WorkerCost(
        workers=tokens_month / SECONDS_PER_MONTH / tps,
        usd_per_1m=usd_per_1m,
        usd_month=usd_per_1m * tokens_month / 1e6,
    )


def replicas_needed(request_rate: float, capacity: float, utilisation: float = 1.0) -> int:
    """Whole replicas that carry `request_rate`, each `capacity` requests/s at `utilisation`."""
    _require_positive(request_rate=request_rate, capacity=capacity, utilisation=utilisation)
    exact = request_rate / (capacity * utilisation)
    return max(1, math.ceil(exact * (1.0 - 1e-12)))  # an exact fit is not one more for rounding


def month_usd(replicas: int, usd_hour: float) -> float:
    """USD per month: replicas are paid by the hour, busy or not."""
    _require_positive(replicas=replicas, usd_hour=usd_hour)
    return replicas * usd_hour * HOURS_PER_MONTH


def bandwidth_ratio(bandwidth: float, reference: float) -> float:
    """How much faster memory-bound decode runs than on the reference, both in GB/s."""
    _require_positive(bandwidth=bandwidth, reference=reference)
    return bandwidth / reference


def required_bandwidth_gb_s(params_b: float, bits_per_weight: float, tps: float) -> float:
    """GB/s that `tps` at batch 1 implies, each weight read once per token.

    Above the card's peak the row is not what it says it is (most often: quantised, not FP16).
    """
    _require_positive(params_b=params_b, bits_per_weight=bits_per_weight, tps=tps)
    return tps * params_b * bits_per_weight / 8.0
