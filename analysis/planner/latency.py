"""Latency of one replica at a given rate: what a candidate's law becomes under Poisson arrivals.

Two kinds of server. `Slot` serves one request at a time in order (M/D/1, exact quantiles).
`Batch` is continuous batching: a step of fixed + per_sequence * b seconds gives each of b
sequences one token (load-dependent birth-death). Seconds and requests per second throughout.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from analysis.batching import StepTime, batch_birth_death
from analysis.queueing import md1_sojourn_quantile

PERCENTILE = 0.95


class Load(NamedTuple):
    """One replica under load: share of its capacity, p95 sojourn in seconds, mean in flight."""

    utilisation: float
    p95: float
    in_flight: float


class Server(Protocol):
    """One replica."""

    @property
    def capacity(self) -> float:
        """Requests per second at saturation."""

    @property
    def unloaded(self) -> float:
        """Seconds a request takes alone: no number of replicas brings p95 below it."""

    def under(self, rate: float) -> Load:
        """The state at `rate` requests per second, 0 < rate < capacity."""


class Slot(NamedTuple):
    """A request every `service` seconds in order, each taking `service + outside` alone.

    `outside` > 0 is time beside the slot (other places, the network); `outside` < 0, never below
    -`service`, is a server that finishes sooner than it admits the next. Either way the wait is
    that of M/D/1 at `service`, and a sojourn is the wait plus the time alone.
    """

    service: float
    outside: float = 0.0

    @property
    def capacity(self) -> float:
        return 1.0 / self.service

    @property
    def unloaded(self) -> float:
        return self.outside + self.service

    def under(self, rate: float) -> Load:
        rho = rate * self.service
        sojourn = md1_sojourn_quantile(rho, self.service, PERCENTILE)
        return Load(rho, self.outside + sojourn, rho)


class Batch(NamedTuple):
    """Continuous batching of at most `limit` sequences, `tokens` generated per request."""

    fixed: float
    per_sequence: float
    tokens: float
    limit: int

    @property
    def capacity(self) -> float:
        return self._step.capacity

    @property
    def unloaded(self) -> float:
        return self.tokens * (self.fixed + self.per_sequence)

    @property
    def _step(self) -> StepTime:
        return StepTime(self.fixed, self.per_sequence, self.tokens, self.limit)

    def under(self, rate: float) -> Load:
        queue = batch_birth_death(rate, self._step)
        return Load(queue.utilisation, queue.p95, queue.l_run)


def quantized_step(fixed: float, per_sequence: float, speedup: float) -> float:
    """The fixed part once one sequence alone runs `speedup` times as fast.

    Fewer bytes of weights shorten what a step costs whoever runs; a sequence's own share (cache
    reads, sampling) does not shrink with them.
    """
    return max(0.0, (fixed + per_sequence) / speedup - per_sequence)
