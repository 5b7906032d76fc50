"""Doubts about a stage, each a stated limit relative to what it would disturb. Pure.

A verdict that fails is printed and keeps the point out of fits unless asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contract.records import Verdict
from contract.steady import batch_means, quantile, trend
from contract.words import number_of
from loadgen.figures.durations import Durations

LOOP_LAG_SECONDS, LOOP_LAG_SHARE = 0.010, 0.05
SEND_LAG_SECONDS, SEND_LAG_SHARE = 0.005, 0.05
LITTLE_LIMIT = 0.05
COUNT_LIMIT = 0.02
TREND_Z, TREND_DRIFT = 2.58, 0.10
LEAST_COMPLETIONS = 5  # per agent, before Little's law is asked: its edge error is N / count


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a stage gathered inside its measured window. Seconds; one entry per ok request."""

    agents: int
    seconds: float
    in_flight: float  # time average over the window, by overlap
    completions: int  # of every outcome
    mean_stay: float | None  # from due to ended, over those completions
    latencies: Sequence[float]
    send_lags: Sequence[float]
    loop_lags: Durations
    token_pairs: Sequence[tuple[int, int]]  # output tokens by server, by client
    cached_tokens: int
    failures: int


def verdicts(evidence: Evidence) -> list[Verdict]:
    """All checks in a fixed order."""
    return [
        _success(evidence),
        _lag(
            "loop_lag",
            evidence.loop_lags.quantiles([0.99])[0],
            evidence,
            LOOP_LAG_SECONDS,
            LOOP_LAG_SHARE,
        ),
        _lag(
            "send_lag",
            quantile(evidence.send_lags, 0.99),
            evidence,
            SEND_LAG_SECONDS,
            SEND_LAG_SHARE,
        ),
        _little(evidence),
        _counts(evidence),
        _stationary(evidence),
        _uncached(evidence),
    ]


def _success(e: Evidence) -> Verdict:
    total = e.completions
    share = e.failures / total if total else None
    says = f"{e.failures} of {number_of(total, 'request')} in the window did not end ok"
    return Verdict(
        "failures", total > 0 and (share or 0.0) <= 0.01, share, 0.01, "ratio",
        says if total else "no request ended in the window",
    )  # fmt: skip


def _lag(name: str, p99: float | None, e: Evidence, seconds: float, share: float) -> Verdict:
    median = quantile(e.latencies, 0.5)
    if p99 is None or median is None:
        return _unchecked(name, "s", "no request to hold it against")
    limit = max(seconds, share * median)
    return Verdict(
        name, p99 <= limit, p99, limit, "s",
        f"p99 {p99 * 1e3:.2f} ms, allowed max({seconds * 1e3:.0f} ms, {share:.0%} of median e2e)",
    )  # fmt: skip


def _little(e: Evidence) -> Verdict:
    if e.mean_stay is None or e.completions < LEAST_COMPLETIONS * e.agents or e.seconds <= 0:
        return _unchecked("little", "ratio", f"fewer than {LEAST_COMPLETIONS} completions an agent")
    predicted = e.completions / e.seconds * e.mean_stay
    gap = abs(predicted - e.in_flight) / e.in_flight if e.in_flight else 1.0
    return Verdict(
        "little", gap <= LITTLE_LIMIT, gap, LITTLE_LIMIT, "ratio",
        f"X·R = {predicted:.2f} against {e.in_flight:.2f} in flight",
    )  # fmt: skip


def _counts(e: Evidence) -> Verdict:
    server = sum(pair[0] for pair in e.token_pairs)
    client = sum(pair[1] for pair in e.token_pairs)
    if not server:
        return _unchecked("counts", "ratio", "server and client did not both count tokens")
    gap = abs(server - client) / server
    return Verdict(
        "counts", gap <= COUNT_LIMIT, gap, COUNT_LIMIT, "ratio",
        f"server counted {server} output tokens, client {client}",
    )  # fmt: skip


def _stationary(e: Evidence) -> Verdict:
    batches = batch_means(e.latencies, 20) or batch_means(e.latencies, 8)
    if not batches:
        return _unchecked("stationary", "ratio", "fewer than 16 requests")
    z, drift = trend(batches)
    steady = abs(z) <= TREND_Z or abs(drift) <= TREND_DRIFT
    return Verdict(
        "stationary", steady, abs(drift), TREND_DRIFT, "ratio",
        f"latency drifts {drift:+.1%} across the window (trend z {z:+.1f})",
    )  # fmt: skip


def _uncached(e: Evidence) -> Verdict:
    return Verdict(
        "uncached", e.cached_tokens == 0, float(e.cached_tokens), 0.0, "tokens",
        f"the server answered {e.cached_tokens} prompt tokens from its cache",
    )  # fmt: skip


def _unchecked(name: str, unit: str, why: str) -> Verdict:
    return Verdict(name, True, None, None, unit, why, checked=False)
