"""Did the server keep up with an open loop? Three detectors, and a verdict by majority. Pure.

At or above capacity no steady state exists: backlog and latency grow as long as the stage
lasts, and their figures describe the stage's length, not the server. One detector alone either
misses that or sees it in noise, so two of three must agree:

  growth    completions fall more than 5 % short of arrivals: the backlog took the rest
  backlog   requests in flight rise from quarter to quarter of the window, by half or more
  latency   median latency rises from quarter to quarter of the arrivals, by a quarter or more

Limits, seen in 60 simulated windows of 300 and of 1000 arrivals each: with constant or
exponential service, false alarms in at most 5 % of the windows up to 90 % load; saturation found
in more than half at 110 % and nearly always at 130 %. With lognormal service of CV 2.9, false
alarms in 15 % at 90 % load, found in 4 of 10 at 110 % and in two thirds or more at 130 %.
Between 95 and 105 % of capacity no window of that length can tell. A server that rejects what
it cannot serve never builds a backlog: there the failures speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from contract.records import Verdict
from contract.steady import quantile

GROWTH_LIMIT = 0.05
BACKLOG_RISE = 1.5
LATENCY_RISE = 1.25
LEAST_ARRIVALS = 200


@dataclass(frozen=True, slots=True)
class Saturation:
    """What the window showed; `votes` of the three detectors say saturated.

    `growth` is (arrivals - completions) / arrivals; `backlogs` are time means of requests in
    flight, `latencies` median seconds from due to end, one per quarter.
    """

    arrivals: int
    completions: int
    growth: float
    backlogs: tuple[float, ...]
    latencies: tuple[float, ...]

    @property
    def votes(self) -> int:
        """How many of the three detectors fire."""
        return (
            (self.growth > GROWTH_LIMIT)
            + _rises(self.backlogs, BACKLOG_RISE)
            + _rises(self.latencies, LATENCY_RISE)
        )

    @property
    def saturated(self) -> bool:
        """The majority's word."""
        return self.votes >= 2


def saturation(
    dues: Sequence[float], endeds: Sequence[float], start: float, end: float
) -> Saturation | None:
    """Look at the window [start, end); None with fewer than 200 arrivals in it.

    `dues[i]` and `endeds[i]` (seconds) are the same request's, whatever its phase or outcome:
    what was due earlier or ended later counts for the time it was in flight.
    """
    stays = sorted(zip(dues, endeds, strict=True))
    inside = [ended - due for due, ended in stays if start <= due < end]
    if len(inside) < LEAST_ARRIVALS:
        return None
    completions = sum(start <= ended < end for _, ended in stays)
    cuts = [len(inside) * quarter // 4 for quarter in range(5)]
    return Saturation(
        arrivals=len(inside),
        completions=completions,
        growth=1 - completions / len(inside),
        backlogs=_backlogs(stays, start, end),
        latencies=tuple(quantile(inside[first:last], 0.5) or 0.0 for first, last in pairwise(cuts)),
    )


def saturation_verdict(
    dues: Sequence[float], endeds: Sequence[float], start: float, end: float
) -> Verdict:
    """The verdict `saturation` of a stage: not ok when the server was saturated."""
    seen = saturation(dues, endeds, start, end)
    if seen is None:
        why = f"fewer than {LEAST_ARRIVALS} arrivals in the window"
        return Verdict("saturation", True, None, None, "ratio", why, checked=False)
    first, last = seen.backlogs[0], seen.backlogs[-1]
    says = (
        f"{seen.completions} completed of {seen.arrivals} due, in flight {first:.1f} to "
        f"{last:.1f}, median latency {seen.latencies[0]:.3g} to {seen.latencies[-1]:.3g} s "
        f"({seen.votes} of 3 signs of saturation)"
    )
    return Verdict("saturation", not seen.saturated, seen.growth, GROWTH_LIMIT, "ratio", says)


def _backlogs(stays: Sequence[tuple[float, float]], start: float, end: float) -> tuple[float, ...]:
    """Time means of requests in flight over the four quarters of [start, end)."""
    length = (end - start) / 4
    totals = [0.0] * 4
    for due, ended in stays:
        for quarter in range(4):
            begin = start + quarter * length
            totals[quarter] += max(0.0, min(ended, begin + length) - max(due, begin))
    return tuple(total / length for total in totals)


def _rises(values: Sequence[float], factor: float) -> bool:
    """Strictly, from each to the next, and overall by `factor`."""
    steps = all(first < second for first, second in pairwise(values))
    return steps and values[-1] > factor * values[0]
