"""The stages of a run: planned from the configuration, stated once they are over. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from contract.records import Stage, StageKey
from contract.steady import mser5
from loadgen.config import RunConfig
from loadgen.engine import StagePlan, StageRun
from loadgen.loops import Closed
from loadgen.verdicts import verdicts


def plans(config: RunConfig, backend: str, model: str) -> Iterator[StagePlan]:
    """The stages in order: all levels, then all levels again for every repeat."""
    for number, key in enumerate(keys(config, backend, model), 1):
        warmup = config.warmup_requests
        yield StagePlan(
            number=number,
            key=key,
            load=Closed(key.agents),
            warmup=key.agents if warmup is None else warmup,
            seconds=config.duration,
            requests=config.request_count,
            timeout=config.timeout,
            grace=config.grace_period,
        )


def keys(config: RunConfig, backend: str, model: str) -> list[StageKey]:
    """The cells of the run in the order they will be driven."""
    return [
        StageKey(backend, model, agents, config.isl, config.osl, repeat=repeat)
        for repeat in range(config.repeats)
        for agents in config.agents
    ]


def stage_of(stage: StageRun, epoch_unix: float) -> Stage:
    """The line of `stages.jsonl` for a stage that is over."""
    start, end = stage.start, stage.end
    latencies = stage.tally.latencies
    dropped = mser5(latencies)
    return Stage(
        run=stage.run,
        stage=stage.plan.number,
        key=stage.plan.key,
        began=stage.began,
        start=start,
        end=end,
        drained=stage.drained,
        start_unix=epoch_unix + start,
        end_unix=epoch_unix + end,
        steady_start=start + (end - start) * dropped / len(latencies) if latencies else start,
        outcomes={name: n for name, n in stage.tally.outcomes.items() if n},
        sent=stage.tally.sent,
        verdicts=verdicts(stage.tally.evidence(stage.plan.key.agents, start, end)),
        complete=stage.complete,
    )
