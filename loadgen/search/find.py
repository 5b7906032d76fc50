"""The largest load that meets a service objective: bracketing, bisection, repeats. Pure.

A level is one step of a grid: place p is the load p x step. From the first level the search
doubles while levels meet the objective, halves while they do not, and bisects between the
largest that met it and the smallest that did not, down to one step. It takes for granted that
more load never serves better.

A level meets the objective when the interval of its attainment lies at or above the target, and
misses it when the interval lies below; otherwise it is driven again, up to `repeats` stages
pooled, and then decided by the point estimate, which the result says. Looking several times
would let chance in, so each look has its share of the 5 % (Bonferroni). Requests that share a
queue meet or miss together: their number is divided by a design effect from batch means
(Kish 1965) before the interval is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from contract.steady import batch_means
from loadgen.figures.goodput import wilson

CONFIDENCE = 0.95
BATCHES = 20

Ground = Literal["interval", "saturation", "point estimate"]


@dataclass(frozen=True, slots=True)
class Grid:
    """The loads that may be asked for: places 1 to `last`, each `step` above the one before."""

    start: int
    last: int
    step: float = 1.0

    def level(self, place: int) -> float:
        """Agents or requests/s at a place."""
        return place * self.step


@dataclass(frozen=True, slots=True)
class Rules:
    """When a level is decided: the share of requests that must meet the objective, and in how
    many stages at most."""

    target: float
    repeats: int = 3

    @property
    def confidence(self) -> float:
        """Of one look, so that all looks at a level together have `CONFIDENCE`."""
        return 1 - (1 - CONFIDENCE) / self.repeats

    @property
    def fewest(self) -> int:
        """How many independent requests, all of them good, put the interval at the target."""
        total = 1
        while wilson(total, total, self.confidence)[0] < self.target:
            total += 1
        return total


@dataclass(frozen=True, slots=True)
class Observation:
    """What one stage showed of its level.

    `effect` is the design effect of its requests, `saturated` the verdict of an open loop,
    `loads` how many of its requests are known to have waited for the model to be loaded.
    """

    met: int
    total: int
    effect: float = 1.0
    saturated: bool = False
    loads: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """One level after all its stages; `meets` is None while it is undecided.

    `cold` stages missed the target while the server loaded its model, and do not count.
    """

    place: int
    meets: bool | None
    ground: Ground | None
    met: int
    total: int
    share: float
    low: float
    high: float
    stages: int
    cold: int
    saturated: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a search stands: the levels seen, and the place to drive next, None once it is over."""

    judged: tuple[Judged, ...]
    place: int | None

    @property
    def best(self) -> Judged | None:
        """The largest level so far that meets the objective."""
        met = [level for level in self.judged if level.meets]
        return max(met, key=lambda level: level.place, default=None)

    @property
    def missed(self) -> Judged | None:
        """The smallest level so far that does not."""
        failed = [level for level in self.judged if level.meets is False]
        return min(failed, key=lambda level: level.place, default=None)


def standing(history: Sequence[Observation], grid: Grid, rules: Rules) -> Standing:
    """Where the search stands after `history`: the stages it asked for, in order."""
    judged: dict[int, Judged] = {}
    low, high, place = 0, grid.last + 1, grid.start
    here: list[Observation] = []
    for seen in history:
        here.append(seen)
        judged[place] = level = judge(place, here, rules)
        if level.meets is None:
            continue
        low, high = (place, high) if level.meets else (low, place)
        place, here = _following(low, high, grid), []
    return Standing(tuple(judged.values()), place if high - low > 1 else None)


def doubling(grid: Grid) -> list[int]:
    """The places driven as long as every level meets the objective."""
    places = [grid.start]
    while places[-1] < grid.last:
        places.append(min(2 * places[-1], grid.last))
    return places


def most_levels(grid: Grid) -> int:
    """A bound on the levels a search drives: doubling, and halving what lies between."""
    return len(doubling(grid)) + math.ceil(math.log2(grid.last)) if grid.last > 1 else 1


def judge(place: int, seen: Sequence[Observation], rules: Rules) -> Judged:
    """What the stages of one level say together."""
    kept = _without_cold(seen, rules)
    met, total = sum(o.met for o in kept), sum(o.total for o in kept)
    share = met / total if total else 0.0
    # One of them at least, however alike the requests were.
    independent = max(1.0, sum(o.total / o.effect for o in kept))
    low, high = wilson(share * independent, independent, rules.confidence) if total else (0.0, 1.0)
    saturated = sum(o.saturated for o in kept)
    cold = len(seen) - len(kept)
    level = Judged(place, None, None, met, total, share, low, high, len(kept), cold, saturated)
    meets, ground = _verdict(level, rules)
    return replace(level, meets=meets, ground=ground)


def design_effect(mets: Sequence[int]) -> float:
    """Variance of the mean of `mets` (0 or 1, in the order the requests ended) over what it
    would be if they were independent; 1 where that cannot be seen, never less."""
    batches = batch_means(mets, BATCHES)
    share = sum(mets) / len(mets) if mets else 0.0
    if not batches or share in (0.0, 1.0):
        return 1.0
    centre = math.fsum(batches) / len(batches)
    variance = math.fsum((batch - centre) ** 2 for batch in batches) / (len(batches) - 1)
    return max(1.0, len(mets) // BATCHES * variance / (share * (1 - share)))


def _following(low: int, high: int, grid: Grid) -> int:
    """The next place, where `low` met the objective (0: none did) and `high` did not."""
    if low == 0:
        return max(1, high // 2)
    if high > grid.last:
        return min(2 * low, grid.last)
    return (low + high) // 2


def _without_cold(seen: Sequence[Observation], rules: Rules) -> list[Observation]:
    """Leave out what a load of the model explains, as often as a level may be repeated."""
    kept, excused = [], 0
    for stage in seen:
        missed = not stage.total or stage.met < rules.target * stage.total
        if stage.loads and missed and excused < rules.repeats:
            excused += 1
        else:
            kept.append(stage)
    return kept


def _verdict(level: Judged, rules: Rules) -> tuple[bool | None, Ground | None]:
    """Whether a level meets the target, and on what ground.

    A saturated stage has no steady state, whatever its requests attained; but the verdict has
    false alarms, so it takes two of them, and most of the stages.
    """
    saturated = 2 * level.saturated > level.stages
    if level.stages == 0:
        return None, None
    if level.high < rules.target:
        return False, "interval"
    if saturated and level.stages >= min(2, rules.repeats):
        return False, "saturation"
    if level.low >= rules.target and 2 * level.saturated < level.stages:
        return True, "interval"
    if level.stages < rules.repeats:
        return None, None
    return level.share >= rules.target, "point estimate"
