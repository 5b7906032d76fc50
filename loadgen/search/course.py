"""The stages of a search: each level is driven because of those before it. Pure."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from contract.errors import TargetError
from contract.records import Stage, StageKey
from contract.steady import quantile
from loadgen.config import RunConfig
from loadgen.engine import StagePlan
from loadgen.figures.goodput import Objectives
from loadgen.figures.stage_end import gone, no_success, went_away
from loadgen.figures.tally import Tally
from loadgen.search.find import Grid, Observation, Rules, Standing, design_effect, standing
from loadgen.search.report import Asked, line
from loadgen.stages import plans
from loadgen.window import Windowed
from loadgen.workload.draws import key


@dataclass(slots=True)
class Search:
    """A course whose next stage follows from all before; `said` hears what each level came to.

    `relaxed` holds, by place, the objectives that enough requests of its last stage would have
    met, and None where too many failed.
    """

    config: RunConfig
    asked: Asked
    grid: Grid
    rules: Rules
    said: Callable[[str], None] = lambda _line: None
    history: list[Observation] = field(default_factory=list)
    relaxed: dict[int, Objectives | None] = field(default_factory=dict)
    _repeats: Counter[int] = field(default_factory=Counter)
    _answered: bool = False

    @property
    def standing(self) -> Standing:
        """Where the search stands."""
        return standing(self.history, self.grid, self.rules)

    def planned(self, _backend: str, _model: str) -> list[StageKey]:
        """Nothing is known beforehand."""
        return []

    def plans(self, backend: str, model: str) -> Iterator[StagePlan]:
        """One stage after the other, until the search is over."""
        for number in itertools.count(1):
            place = self.standing.place
            if place is None:
                return
            yield self._plan(number, place, backend, model)

    def ended(self, stage: Windowed, done: Stage, tally: Tally) -> None:
        """Take what a stage showed. TargetError when the target is not there, or went away.

        A server that answers nobody because there are too many may still be there: that is a
        level missed. One that was never heard, or that nobody reaches any more, is not.
        """
        counts = stage.counts
        reached = any(not why.startswith("unreachable:") for why in counts.reasons)
        if counts.sent and not counts.ok and not (self._answered and reached):
            raise TargetError(no_success(stage))
        if gone(tally, done.key.agents, done.start, done.end):
            raise TargetError(went_away(done, tally))
        self._answered = self._answered or counts.ok > 0
        place = self.standing.place
        assert place is not None
        self.history.append(observation(tally, done))
        self.relaxed[place] = relaxation(tally, self.rules.target)
        judged = next(level for level in self.standing.judged if level.place == place)
        self.said(line(judged, self.asked, self.grid))

    def _plan(self, number: int, place: int, backend: str, model: str) -> StagePlan:
        """The stage at a place: a run of that one level, under its own number and chances."""
        config = self.config
        level = self.grid.level(place)
        only = {"seed": key(config.seed, "find", number) % 2**31, "repeats": 1}
        load = {"request_rate": f"{level:.12g}"} if config.open else {"agents": (round(level),)}
        plan = next(plans(config.model_copy(update=only | load), backend, model))
        repeat = self._repeats[place]
        self._repeats[place] += 1
        return replace(plan, number=number, key=replace(plan.key, repeat=repeat))


def observation(tally: Tally, done: Stage) -> Observation:
    """What the search looks at in a stage that is over."""
    return Observation(
        met=tally.met,
        total=sum(done.outcomes.values()),
        effect=design_effect(tally.mets),
        saturated=any(v.name == "saturation" and v.checked and not v.ok for v in done.verdicts),
        loads=tally.loads,
    )


def relaxation(tally: Tally, target: float) -> Objectives | None:
    """The objectives with each limit raised, where needed, to what that share of all requests
    stayed within; None when more failed than the target allows, or where itl would be it."""
    asked, total = tally.objectives, sum(tally.outcomes.values())
    if asked is None or not total or tally.outcomes["ok"] < target * total:
        return None
    # The failed ones are over any limit: of the others a larger share has to stay within.
    share = target * total / tally.outcomes["ok"]
    raised = {}
    for name, column in (("ttft", tally.ttfts), ("tpot", tally.tpots), ("e2el", tally.latencies)):
        limit, seen = getattr(asked, name), quantile(column, share)
        if limit is not None and seen is not None and seen > limit:
            raised[name] = math.ceil(seen * 1e3) / 1e3
    return replace(asked, **raised) if raised else None
