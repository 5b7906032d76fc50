"""What would let something through when nothing fits.

A change is named only after the whole search was run again with it, every other limit kept, and
something fitted. So a hint that is followed does what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from analysis.capacity import HOURS_PER_MONTH
from analysis.planner.candidates import Asked, Candidate
from analysis.planner.search import Miss, Plan, fitting_only, relaxations, search

# Everything that could be bought in answer to a question.
Offers = Callable[[Asked], list[Candidate]]

_FIELDS = {"--budget": "budget", "--latency-slo": "slo", "--quality-target": "quality"}
# How many plans to try for one flag: the nearest nearly always does.
_TRIES = 3


class Card(NamedTuple):
    """A GPU of the catalog and its price in USD per hour."""

    name: str
    hourly: float


class Advice(NamedTuple):
    """The nearest miss, and the changes that were tried and do."""

    nearest: Plan | None
    hints: tuple[str, ...]


class _Hint(NamedTuple):
    said: str
    mends: Plan | None


def advise(missing: list[Plan], asked: Asked, offers: Offers, cards: Sequence[Card]) -> Advice:
    """What to change when nothing fits; `missing` is nearest first.

    The nearest miss is the one whose single change is the smallest; where no single change does,
    the first of `missing` and the changes it takes together.
    """
    hints = list(_single(missing, asked, offers))
    hints += _other_card(missing, asked, offers, cards)
    hints = hints or list(_disputed(missing, asked, offers))
    hints = hints or list(_together(missing, asked, offers, cards))
    nearest = hints[0].mends if hints else next(iter(missing), None)
    return Advice(nearest, tuple(hint.said for hint in hints))


def _single(missing: list[Plan], asked: Asked, offers: Offers) -> Iterator[_Hint]:
    """For each flag the smallest change that does, the smallest of all first."""
    changes = [(miss, plan) for plan in missing for miss in relaxations(plan, asked)]
    tried: dict[str, int] = {}
    done: set[str] = set()
    for miss, plan in sorted(changes, key=lambda change: change[0].excess):
        if miss.flag in done or tried.setdefault(miss.flag, 0) >= _TRIES:
            continue
        tried[miss.flag] += 1
        fitting = _fitting(offers, _changed(asked, miss))
        if fitting:
            done.add(miss.flag)
            yield _Hint(_would_do(_said(miss), fitting[0]), plan)


def _other_card(
    missing: list[Plan], asked: Asked, offers: Offers, cards: Sequence[Card]
) -> Iterator[_Hint]:
    """The cheapest other GPU on which something meets every limit."""
    for card in _affordable(asked, cards):
        fitting = _fitting(offers, asked._replace(hardware=card.name))
        if fitting:
            found = fitting[0]
            same = (p for p in missing if p.candidate[:3] == found.candidate[:3])
            said = _would_do(f'--hardware "{card.name}"', found)
            yield _Hint(said, next(same, next(iter(missing), None)))
            return


def _affordable(asked: Asked, cards: Sequence[Card]) -> list[Card]:
    """Cheapest first; one replica of each costs no more than the budget."""
    budget = float("inf") if asked.budget is None else asked.budget
    others = [card for card in cards if card.name != asked.hardware]
    within = [card for card in others if card.hourly * HOURS_PER_MONTH <= budget * (1 + 1e-9)]
    return sorted(within, key=lambda card: card.hourly)


def _disputed(missing: list[Plan], asked: Asked, offers: Offers) -> Iterator[_Hint]:
    """Disputed values, where nothing else is known for the filters."""
    if missing:
        return
    fitting = _fitting(offers, asked._replace(include_disputed=True))
    if fitting:
        yield _Hint(_would_do("--include-disputed", fitting[0]), None)


def _together(
    missing: list[Plan], asked: Asked, offers: Offers, cards: Sequence[Card]
) -> Iterator[_Hint]:
    """Everything the nearest plan with room in memory misses, at once; on the asked GPU if any."""
    places = [asked.hardware, *(card.name for card in sorted(cards, key=lambda c: c.hourly))]
    for name in dict.fromkeys(places):
        there = asked._replace(hardware=name)
        plans = missing if there == asked else search(offers(there), there)[1]
        nearest = next((plan for plan in plans if plan.candidate.server is not None), None)
        if nearest is None:
            continue
        changed = there
        for miss in nearest.misses:
            changed = _changed(changed, miss)
        fitting = _fitting(offers, changed)
        if fitting:
            card = [] if there == asked else [f'--hardware "{name}"']
            said = " and ".join([*card, *map(_said, nearest.misses)])
            yield _Hint(_would_do(said, fitting[0]), missing[0] if card else nearest)
            return


def _fitting(offers: Offers, asked: Asked) -> list[Plan]:
    return fitting_only(offers(asked), asked)


def _changed(asked: Asked, miss: Miss) -> Asked:
    change: dict[str, Any] = {_FIELDS[miss.flag]: miss.amount}
    return asked._replace(**change)


def _said(miss: Miss) -> str:
    return f"{miss.flag} {miss.would_do}"


def _would_do(change: str, plan: Plan) -> str:
    return f"{change} would do ({plan.candidate.name})"
