"""What a run is going to ask for, worked out before it runs: seconds, requests, tokens.

What depends on how fast the server answers is left open: a stage takes its known `seconds`, and
besides them `rounds` times as long as one request takes under its load. Tokens are words where
no tokenizer counts. Nothing is touched but the files that requests are read from.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from contract.words import number_of
from loadgen.config import RunConfig
from loadgen.engine import Source, StagePlan
from loadgen.loops import Open
from loadgen.stages import plans
from loadgen.workload.build import Dues
from loadgen.workload.file_sources import DatasetSource, TraceSource
from loadgen.workload.lengths import parse_lengths
from loadgen.workload.prompts import LEAST_TOKENS
from loadgen.workload.think import parse_think


@dataclass(frozen=True, slots=True)
class PerRequest:
    """Tokens of one request on average, and where the averages are from."""

    prompt_tokens: float
    output_tokens: float
    says: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """One stage to come.

    `requests` are those of warm-up and window, None where the server decides their number;
    `seconds` are infinite where only an interrupt ends the stage.
    """

    plan: StagePlan
    seconds: float
    rounds: float
    requests: float | None
    prompt_tokens: float | None
    output_tokens: float | None


class Schedule(Protocol):
    """When requests are due in an open loop."""

    @property
    def seconds(self) -> float: ...

    def expected_by(self, seconds: float, /) -> float: ...

    def seconds_for(self, requests: float, /) -> float: ...


@dataclass(frozen=True, slots=True)
class Replay:
    """The instants of a trace as a schedule, in which everything is certain."""

    instants: Sequence[float]

    @property
    def seconds(self) -> float:
        """When the last one is due."""
        return self.instants[-1]

    def expected_by(self, seconds: float) -> float:
        """How many are due until then; all of them at the end."""
        ended = seconds >= self.seconds
        return len(self.instants) if ended else bisect_left(self.instants, seconds)

    def seconds_for(self, requests: float) -> float:
        """When so many have been due."""
        place = min(len(self.instants), math.ceil(requests)) - 1
        return self.instants[place] if place >= 0 else 0.0


def per_request(config: RunConfig, source: Source) -> PerRequest:
    """The tokens of one request, from a file's own sums or from the laws of lengths."""
    if isinstance(source, TraceSource):
        rows, total = len(source.rows), trace_tokens(source)
        return PerRequest(
            total[0] / rows, total[1] / rows, f"means over {number_of(rows, 'request')} traced"
        )
    if isinstance(source, DatasetSource):
        return _of_a_dataset(config, source)
    isl, osl = parse_lengths(config.isl), parse_lengths(config.osl)
    turns = parse_lengths(config.turns)
    if turns.most == 1:
        return PerRequest(isl.mean, osl.mean, "means of isl and osl")
    # Turn k of a conversation sends k questions and the k - 1 replies between them.
    before = turns.mean_of(lambda n: n * (n - 1) / 2) / turns.mean
    prompt = isl.mean + before * (isl.mean + osl.mean)
    return PerRequest(prompt, osl.mean, "means of isl and osl over the turns of a conversation")


def trace_tokens(source: TraceSource, requests: int | None = None) -> tuple[int, int]:
    """Prompt and output tokens of the first so many requests of a trace, all of them if None."""
    rows = source.rows[:requests]
    prompt = sum(max(LEAST_TOKENS, row.input_tokens) for row in rows)
    return prompt, sum(row.output_tokens for row in rows)


def stages_ahead(config: RunConfig, source: Source, each: PerRequest) -> list[Ahead]:
    """Every stage of the run, in order."""
    think = parse_think(config.think).mean
    found = []
    for plan in plans(config, config.backend.kind, ""):
        schedule = schedule_of(plan)
        timing = _closed(plan, think) if schedule is None else _open(plan, schedule)
        found.append(_with_tokens(plan, timing, source, each))
    return found


def schedule_of(plan: StagePlan) -> Schedule | None:
    """When a stage's requests are due; None in a closed loop."""
    if not isinstance(plan.load, Open):
        return None
    dues = plan.load.dues
    return dues.schedule if isinstance(dues, Dues) else Replay(tuple(dues))


def _of_a_dataset(config: RunConfig, source: DatasetSource) -> PerRequest:
    samples = source.samples
    ahead = config.shared_prefix + LEAST_TOKENS
    words = sum(len(sample.prompt.split()) for sample in samples)
    drawn = parse_lengths(config.osl).mean
    asked = [sample.output_tokens or drawn for sample in samples]
    says = (
        f"means over {number_of(len(samples), 'prompt')} of {number_of(words, 'word')} in all, "
        f"each after {ahead} of ours, asking for {math.fsum(asked):.6g} tokens"
    )
    return PerRequest(ahead + words / len(samples), math.fsum(asked) / len(samples), says)


def _closed(plan: StagePlan, think: float) -> tuple[float, float, float | None]:
    """Seconds, rounds and requests of a closed loop. Once its window is over, one request of
    each agent but the one that closed it is still under way."""
    agents, count = plan.key.agents, plan.requests
    turns = (0.0 if plan.warmup_seconds else plan.warmup / agents) + (count or 0) / agents
    seconds = plan.warmup_seconds + (plan.seconds or 0.0) + turns * think
    counted = count is not None and not plan.warmup_seconds
    sent = plan.warmup + count + agents - 1 if counted and count is not None else None
    last = 0 if count is not None and agents == 1 else 1
    return seconds, turns + last, sent


def _open(plan: StagePlan, schedule: Schedule) -> tuple[float, float, float | None]:
    """The same of arrivals, which come whatever the server does; only the last answers wait."""
    opening = max(plan.warmup_seconds, schedule.seconds_for(plan.warmup))
    seconds = schedule.seconds
    if plan.seconds is not None:
        seconds = min(seconds, opening + plan.seconds)
    elif plan.requests is not None:
        sent = schedule.expected_by(opening) + plan.requests
        seconds = min(seconds, schedule.seconds_for(sent))
    return seconds, 1.0, schedule.expected_by(seconds) if math.isfinite(seconds) else None


def _with_tokens(
    plan: StagePlan, timing: tuple[float, float, float | None], source: Source, each: PerRequest
) -> Ahead:
    seconds, rounds, requests = timing
    if requests is None:
        return Ahead(plan, seconds, rounds, None, None, None)
    if isinstance(source, TraceSource):
        prompt, output = trace_tokens(source, round(requests))
        return Ahead(plan, seconds, rounds, requests, prompt, output)
    prompt_tokens, output_tokens = requests * each.prompt_tokens, requests * each.output_tokens
    return Ahead(plan, seconds, rounds, requests, prompt_tokens, output_tokens)
