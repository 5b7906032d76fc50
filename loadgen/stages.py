"""The stages of a run, planned from the configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from contract.errors import TargetError
from contract.records import Stage, StageKey
from loadgen.config import RunConfig
from loadgen.engine import StagePlan
from loadgen.figures.tally import Tally
from loadgen.window import Windowed
from loadgen.workload.build import levels
from loadgen.workload.lengths import parse_lengths


class Course(Protocol):
    """Which stages a run has: all known beforehand, or each decided by those before it."""

    def planned(self, backend: str, model: str, /) -> list[StageKey]:
        """What is known when the run begins; [] where everything is decided as it goes."""
        ...

    def plans(self, backend: str, model: str, /) -> Iterator[StagePlan]:
        """The stages in order; the next one is asked for once the last has ended."""
        ...

    def ended(self, stage: Windowed, done: Stage, tally: Tally, /) -> None:
        """A stage is over, written and tallied. TargetError ends the run."""
        ...


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of a configuration, one after the other."""

    config: RunConfig

    def planned(self, backend: str, model: str) -> list[StageKey]:
        return keys(self.config, backend, model)

    def plans(self, backend: str, model: str) -> Iterator[StagePlan]:
        return plans(self.config, backend, model)

    def ended(self, stage: Windowed, done: Stage, tally: Tally) -> None:
        """A stage without a single success ends the run, and so does one whose end nobody
        answered any more: the target is not there."""
        from loadgen.figures.stage_end import gone, no_success, went_away

        if stage.counts.ok == 0:
            raise TargetError(no_success(stage))
        if gone(tally, done.key.agents, done.start, done.end):
            raise TargetError(went_away(done, tally))


def plans(config: RunConfig, backend: str, model: str) -> Iterator[StagePlan]:
    """The stages in order: all levels, then all levels again for every repeat."""
    driven = zip(keys(config, backend, model), levels(config), strict=True)
    for number, (key, level) in enumerate(driven, 1):
        warmup = config.warmup_requests
        yield StagePlan(
            number=number,
            key=key,
            load=level.load,
            warmup=key.agents if warmup is None else warmup,
            seconds=config.duration,
            requests=config.request_count,
            timeout=config.timeout,
            grace=config.grace_period,
            warmup_seconds=config.warmup_duration,
            most_errors=config.most_errors,
        )


def keys(config: RunConfig, backend: str, model: str) -> list[StageKey]:
    """The cells of the run in the order they will be driven."""
    isl, osl = (round(parse_lengths(text).mean) for text in (config.isl, config.osl))
    return [
        StageKey(
            backend,
            model,
            level.agents,
            isl,
            osl,
            repeat=level.repeat,
            request_rate=level.request_rate,
        )
        for level in levels(config)
    ]
