"""Four gates and a ranking: memory, quality, latency, budget; then cost, quality, latency.

Replicas are the only thing bought: R replicas each take an even share of the rate, and cost
R x hourly x 720 hours a month. R is the smallest number that keeps every replica at or under 90 %
of its capacity and, where an SLO was asked for, the p95 within it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from analysis.capacity import month_usd, replicas_needed
from analysis.planner.candidates import Asked, Candidate
from analysis.planner.latency import Load, Server
from analysis.planner.memory import GIB

HIGHEST_UTILISATION = 0.9
# Mean number in service below which a replica is as good as idle: more replicas change nothing.
_ALONE = 1e-4
# Closer to saturation than this a queue has a steady state that nobody will live to see.
_KEEPS_UP = 0.999


class Miss(NamedTuple):
    """One gate not passed: how far off (0 = just), the flag to change and to what.

    `amount` is `would_do` in the units of Asked (USD, seconds, a score; None: no target), read
    back from what is printed. It opens this gate for this plan, and promises nothing about the
    others: see `relax`.
    """

    gate: str
    excess: float
    text: str
    flag: str
    would_do: str
    amount: float | None


class Plan(NamedTuple):
    """A candidate with its replicas under the asked load; `load` is one replica's.

    `misses` is empty for what fits. `monthly` is None where the price is not known.
    `p95_low` and `p95_high` are None without an interval, or where its slow end cannot keep up.
    """

    candidate: Candidate
    replicas: int
    load: Load | None
    monthly: float | None
    misses: tuple[Miss, ...]
    p95_low: float | None = None
    p95_high: float | None = None


def search(candidates: list[Candidate], asked: Asked) -> tuple[list[Plan], list[Plan]]:
    """Plans that pass every gate, best first, and those that do not, nearest first."""
    plans = [judge(candidate, asked) for candidate in candidates]
    fitting = sorted((plan for plan in plans if not plan.misses), key=_rank)
    missing = sorted((plan for plan in plans if plan.misses), key=_distance)
    return fitting, missing


def fitting_only(candidates: list[Candidate], asked: Asked) -> list[Plan]:
    """The first half of `search`, without working out how far off the others are."""
    return search([each for each in candidates if _within_reach(each, asked)], asked)[0]


def _within_reach(candidate: Candidate, asked: Asked) -> bool:
    """What every plan that passes all gates has, whatever its replicas; cheap to see."""
    server, hourly = candidate.server, candidate.hourly
    if server is None or _quality_miss(candidate, asked):
        return False
    one = None if hourly is None else _monthly(1, hourly.value)
    return (asked.slo is None or server.unloaded <= asked.slo) and not _budget_miss(asked, one)


def _rank(plan: Plan) -> tuple[bool, float, int, float, float]:
    """What every gate could judge first, then cost, fewer assumptions, quality, p95."""
    candidate = plan.candidate
    quality = candidate.quality.value if candidate.quality else 0.0
    p95 = plan.load.p95 if plan.load else 0.0
    return (
        plan.monthly is None or candidate.size_unknown,
        plan.monthly or 0.0,
        len(candidate.assumptions),
        -quality,
        p95,
    )


def _distance(plan: Plan) -> tuple[object, ...]:
    """What memory has no room for comes last: its other gates were never looked at."""
    excess = sum(miss.excess for miss in plan.misses)
    return plan.candidate.server is None, len(plan.misses), excess, _rank(plan)


def judge(candidate: Candidate, asked: Asked) -> Plan:
    """The plan for one candidate: replicas, load, cost, and every gate it misses."""
    misses = [*_memory_miss(candidate), *_quality_miss(candidate, asked)]
    if candidate.server is None:
        return Plan(candidate, 0, None, None, tuple(misses))
    replicas, load = replicas_for(candidate.server, asked.rate, asked.slo)
    hourly = candidate.hourly
    monthly = None if hourly is None else _monthly(replicas, hourly.value)
    if asked.slo is not None and load.p95 > asked.slo:
        misses.append(_latency_miss(candidate.server, asked, load))
    misses += _budget_miss(asked, monthly)
    low, high = (_p95(end, asked.rate / replicas) for end in (candidate.fast, candidate.slow))
    return Plan(candidate, replicas, load, monthly, tuple(misses), low, high)


def _monthly(replicas: int, hourly: float) -> float:
    """USD per month, rounded to a millionth: a budget that is the printed cost is enough."""
    return round(month_usd(replicas, hourly), 6) if hourly > 0.0 else 0.0


def _p95(server: Server | None, rate: float) -> float | None:
    if server is None or rate >= server.capacity * _KEEPS_UP:
        return None
    return server.under(rate).p95


def replicas_for(server: Server, rate: float, slo: float | None) -> tuple[int, Load]:
    """The fewest replicas whose p95 is within `slo`, and one replica's load.

    Where no number of them is enough, as few as carry the rate: p95 then exceeds the SLO.
    p95 falls with the share of the rate a replica takes: double until it is met, then bisect.
    """
    few = replicas_needed(rate, server.capacity, HIGHEST_UTILISATION)
    start = few, server.under(rate / few)
    if slo is None or start[1].p95 <= slo or server.unloaded > slo:
        return start
    found = start
    while found[1].p95 > slo:
        few = found[0]
        if found[1].in_flight < _ALONE:
            return start
        found = few * 2, server.under(rate / (few * 2))
    while found[0] - few > 1:
        middle = (few + found[0]) // 2
        load = server.under(rate / middle)
        if load.p95 <= slo:
            found = middle, load
        else:
            few = middle
    return found


def _memory_miss(candidate: Candidate) -> list[Miss]:
    need, limit = candidate.memory, candidate.memory_limit
    if need is None or limit is None or need.high is None or need.high <= limit.value:
        return []
    have, want = limit.value / GIB, need.high / GIB
    text = f"needs up to {want:.1f} GiB, {candidate.hardware} has {have:.1f}"
    what = f"a GPU with {want:.1f} GiB"
    return [Miss("vram", want / have - 1.0, text, "--hardware", what, None)]


def _quality_miss(candidate: Candidate, asked: Asked) -> list[Miss]:
    if asked.quality is None:
        return []
    if candidate.quality is None:
        text = "quality unknown, so no target can be checked"
        return [Miss("quality", 1.0, text, "--quality-target", "left out", None)]
    score = candidate.quality.value
    if score >= asked.quality:
        return []
    text = f"quality {score:.3f}, asked {asked.quality:g}"
    excess = asked.quality / score - 1.0 if score else asked.quality
    enough = f"{math.floor(round(score * 1000.0, 6)) / 1000.0:.3f}"
    return [Miss("quality", excess, text, "--quality-target", enough, float(enough))]


def _latency_miss(server: Server, asked: Asked, load: Load) -> Miss:
    """No number of replicas helps. What would do is what the replicas of the rate alone give."""
    slo = asked.slo or 0.0
    best = load.p95
    text = (
        f"p95 {best * 1e3:.0f} ms, asked {slo * 1e3:g} ms, {server.unloaded * 1e3:.0f} ms unloaded"
    )
    enough = _up(best * 1e3)
    return Miss("latency", best / slo - 1.0, text, "--latency-slo", f"{enough} ms", enough / 1e3)


def _budget_miss(asked: Asked, monthly: float | None) -> list[Miss]:
    if asked.budget is None or monthly is None or monthly <= asked.budget:
        return []
    text = f"{monthly:.2f} USD/month, asked {asked.budget:g}"
    excess = monthly / asked.budget - 1.0 if asked.budget else monthly
    enough = _cents(monthly)
    return [Miss("budget", excess, text, "--budget", f"{enough} USD/month", float(enough))]


def relaxations(plan: Plan, asked: Asked) -> list[Miss]:
    """What should each alone let this plan through: its one miss, or a looser SLO for the budget.

    Nothing for a plan that memory has no room for: on another GPU everything else is new too.
    """
    if len(plan.misses) != 1 or plan.candidate.server is None:
        return []
    miss = plan.misses[0]
    return [miss, *(_looser_slo(plan, asked) if miss.gate == "budget" else ())]


def _looser_slo(plan: Plan, asked: Asked) -> list[Miss]:
    """The SLO that the replicas the budget pays for would meet, where they can carry the rate."""
    server, hourly = plan.candidate.server, plan.candidate.hourly
    if server is None or hourly is None or asked.slo is None or asked.budget is None:
        return []
    affordable = math.floor(asked.budget / _monthly(1, hourly.value) + 1e-9)
    if affordable < replicas_needed(asked.rate, server.capacity, HIGHEST_UTILISATION):
        return []
    return [_latency_miss(server, asked, server.under(asked.rate / affordable))]


def _up(amount: float) -> int:
    """The next whole number, so that asking for it does."""
    return int(amount) + 1


def _cents(amount: float) -> str:
    """Dollars and cents, rounded up, without cents where there are none."""
    cents = math.ceil(round(amount * 100, 6))
    return f"{cents // 100}" if cents % 100 == 0 else f"{cents / 100:.2f}"
