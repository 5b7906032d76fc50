"""When requests are due in an open loop: seconds from the start of the schedule. Pure.

A schedule is a unit-rate process carried to real time by the inverse of the expected count
L(t) = integral of the rate (the time-change theorem; Cox and Lewis 1966): no thinning, no cut
of long gaps, so the offered rate is the asked one at every instant, also inside a ramp.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

from contract.errors import ConfigError
from loadgen.ranges import parse_levels

Pattern = Literal["constant", "poisson", "gamma"]
PATTERNS: tuple[Pattern, ...] = ("constant", "poisson", "gamma")
ALLOWED_STAGES = "5:60 (5/s for 60 s), 1..20:120 (a ramp), 5 (without end), joined by commas"
ALLOWED_LEVELS = "2.5 or 1,2.5,4 or 1..16 or 1..16x2 (requests per second)"
HIGHEST_RATE = 1e6
LEAST_SHAPE, MOST_SHAPE = 0.01, 1000.0

# An arrival this close (relatively) to the end of a stage is at its end, and outside: 1.1/s for
# 10 s are 11 arrivals, though 1.1 * 10 comes out above 11.
_EDGE = 1e-12
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RateStage:
    """A rate in requests per second, going linearly from `rate` to `to` within `seconds`."""

    rate: float
    seconds: float = math.inf
    to: float | None = None

    def __post_init__(self) -> None:
        for value in (self.rate, self.last):
            if not 0 <= value <= HIGHEST_RATE:
                raise ConfigError(f"rate: {value} given, allowed: 0..{HIGHEST_RATE:.0f} per second")
        if not self.seconds > 0:
            raise ConfigError(f"rate stage: {self.seconds} seconds given, allowed: above 0")
        if math.isinf(self.seconds) and (self.last != self.rate or self.rate == 0):
            raise ConfigError("rate stage: without seconds given, allowed: a constant rate above 0")

    @property
    def last(self) -> float:
        """The rate at the end of the stage."""
        return self.rate if self.to is None else self.to

    @property
    def expected(self) -> float:
        """Expected number of arrivals, the integral of the rate; infinite without an end."""
        return self.seconds * (self.rate + self.last) / 2

    def expected_by(self, seconds: float) -> float:
        """Expected number of arrivals within the first `seconds` of it."""
        until = min(seconds, self.seconds)
        return until * (self.rate + (self.last - self.rate) * until / (2 * self.seconds))

    def instant_of(self, arrivals: float) -> float:
        """Seconds into the stage after which `arrivals` are expected to have come.

        Inverts rate t + (to - rate) t^2 / (2 seconds), in the form that does not cancel.
        """
        slope = (self.last - self.rate) / self.seconds
        divisor = self.rate + math.sqrt(max(0.0, self.rate**2 + 2 * slope * arrivals))
        return 2 * arrivals / divisor if divisor else 0.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open-loop schedule: the rate over time, and how regular arrivals are around it.

    The gaps of `gamma` have a coefficient of variation of 1 / sqrt(shape): below 1 bursty,
    1 is Poisson, above 1 smoother than it.
    """

    stages: tuple[RateStage, ...]
    pattern: Pattern = "poisson"
    shape: float = 1.0

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(f"rate: no stage given, allowed: {ALLOWED_STAGES}")
        if any(math.isinf(stage.seconds) for stage in self.stages[:-1]):
            raise ConfigError("rate: a stage without end can only be the last")
        if self.pattern not in PATTERNS:
            raise ConfigError(f"arrival pattern: '{self.pattern}', allowed: {', '.join(PATTERNS)}")
        if not LEAST_SHAPE <= self.shape <= MOST_SHAPE:
            raise ConfigError(
                f"burstiness: {self.shape} given, allowed: {LEAST_SHAPE}..{MOST_SHAPE:.0f}"
            )
        if self.shape != 1 and self.pattern != "gamma":
            raise ConfigError(f"burstiness: {self.shape} given, allowed only with pattern gamma")

    @property
    def seconds(self) -> float:
        """How long the schedule lasts."""
        return math.fsum(stage.seconds for stage in self.stages)

    @property
    def expected(self) -> float:
        """Expected number of requests; exact to less than one for pattern constant."""
        return math.fsum(stage.expected for stage in self.stages)

    def expected_by(self, seconds: float) -> float:
        """Expected number of requests within the first `seconds`."""
        began = expected = 0.0
        for stage in self.stages:
            expected += stage.expected_by(max(0.0, seconds - began))
            began += stage.seconds
        return expected

    def seconds_for(self, requests: float) -> float:
        """Seconds after which so many are expected; all of them where there are not so many."""
        began = 0.0
        for stage in self.stages:
            if stage.expected >= requests:
                return began + stage.instant_of(requests)
            began, requests = began + stage.seconds, requests - stage.expected
        return began

    def dues(self, seed: int) -> Iterator[float]:
        """Due instants, never decreasing, in [0, seconds). The same seed, the same instants."""
        return _in_real_time(unit_arrivals(self.pattern, self.shape, seed), self.stages)


def unit_arrivals(pattern: Pattern, shape: float, seed: int) -> Iterator[float]:
    """A stationary renewal process of rate one, without end.

    The first arrival is a residual gap, uniform share of a length-biased gap, so that any
    window of t holds t arrivals on average from the start on (Cox 1962): with ordinary gaps a
    bursty schedule would run (1 / shape - 1) / 2 requests ahead. `constant` starts at 0.
    """
    if pattern == "constant":
        yield from map(float, count())
        return
    shape = 1.0 if pattern == "poisson" else shape
    rng = random.Random(seed)
    at = rng.random() * rng.gammavariate(shape + 1, 1 / shape)
    while True:
        yield at
        at += rng.gammavariate(shape, 1 / shape)


def trace_dues(instants: Sequence[float], speed: float = 1.0) -> Iterator[float]:
    """The instants of a trace (seconds from its start, in order), `speed` times as fast."""
    if not 0 < speed < math.inf:
        raise ConfigError(f"trace speed: {speed} given, allowed: a positive number")
    return (instant / speed for instant in instants)


def shard(dues: Iterable[float], index: int, shards: int) -> Iterator[tuple[int, float]]:
    """What shard `index` of `shards` sends: (number in the whole schedule, due) of every k-th.

    The union over all indices is the schedule, and no arrival is in two shards.
    """
    if not 0 <= index < shards:
        raise ConfigError(f"shard: {index} given, allowed: 0..{shards - 1}")
    return islice(enumerate(dues), index, None, shards)


def parse_stages(text: str, field: str = "--rate-stages") -> tuple[RateStage, ...]:
    """Stages of one schedule, such as `5:60,5..20:120,20:60`; ConfigError says what is wrong."""
    stages = tuple(_stage(part.strip(), text, field) for part in text.split(","))
    if not any(stage.expected for stage in stages):
        raise ConfigError(
            f"{field}: '{text}' is a rate of 0 throughout, allowed: one above 0 somewhere"
        )
    return stages


def parse_rates(text: str, field: str = "--request-rate") -> tuple[float, ...]:
    """Rates of a sweep, one load stage each: `2.5`, `1,2.5,4`, or a range of whole numbers."""
    if ".." in text:
        return tuple(float(level) for level in parse_levels(text, field))
    rates = tuple(_number(part.strip(), text, field, ALLOWED_LEVELS) for part in text.split(","))
    if len(set(rates)) < len(rates) or not all(0 < rate <= HIGHEST_RATE for rate in rates):
        raise ConfigError(
            f"{field}: '{text}' given, allowed: distinct rates above 0 and at most "
            f"{HIGHEST_RATE:.0f}, {ALLOWED_LEVELS}"
        )
    return rates


def _stage(part: str, text: str, field: str) -> RateStage:
    rates, colon, seconds = part.partition(":")
    first, ramp, last = rates.partition("..")
    try:
        return RateStage(
            _number(first, text, field, ALLOWED_STAGES),
            _number(seconds, text, field, ALLOWED_STAGES) if colon else math.inf,
            _number(last, text, field, ALLOWED_STAGES) if ramp else None,
        )
    except ConfigError as error:
        if str(error).startswith(field):
            raise
        raise ConfigError(f"{field}: '{text}': {error}") from None


def _number(part: str, text: str, field: str, allowed: str) -> float:
    if not _NUMBER.fullmatch(part):
        raise ConfigError(f"{field}: '{text}' is not understood at '{part}', allowed: {allowed}")
    return float(part)


def _in_real_time(units: Iterator[float], stages: Sequence[RateStage]) -> Iterator[float]:
    began = passed = 0.0  # seconds, and expected arrivals, before the stage at hand
    unit = next(units)
    for stage in stages:
        while unit < passed + stage.expected * (1 - _EDGE):
            yield began + min(stage.instant_of(max(0.0, unit - passed)), stage.seconds)
            unit = next(units)
        began += stage.seconds
        passed += stage.expected
