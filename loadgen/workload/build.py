"""From a configuration to what drives a stage: its load, and the source of its requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from loadgen.backends.base import Tokenizer
from loadgen.config import RunConfig
from loadgen.engine import Load, Source
from loadgen.loops import Closed, Open
from loadgen.workload.arrivals import Arrivals, RateStage, trace_dues
from loadgen.workload.conversations import Conversations, SharedPrefix
from loadgen.workload.draws import key
from loadgen.workload.lengths import Lengths, parse_lengths
from loadgen.workload.prompts import LEAST_TOKENS, PromptSource
from loadgen.workload.think import NO_PAUSE, ThinkTime, parse_think


def source_of(config: RunConfig, salt: int, tokenizer: Tokenizer | None) -> Source:
    """Where the run's requests come from. ConfigError or DataError name a bad file."""
    isl, osl = parse_lengths(config.isl, "--isl", LEAST_TOKENS), parse_lengths(config.osl, "--osl")
    prefix = SharedPrefix(config.shared_prefix, config.prefix_groups)
    prompts = PromptSource(config.seed, isl, osl, salt, tokenizer, prefix)
    turns = parse_lengths(config.turns, "--turns")
    if config.trace is not None or config.dataset is not None:
        from loadgen.workload.file_sources import source_from_file

        return source_from_file(config, prompts)
    if turns.most > 1:
        from loadgen.workload.conversation_source import ConversationSource

        return ConversationSource(_conversations(config, prompts, turns))
    return prompts


@dataclass(frozen=True, slots=True)
class Level:
    """One stage's load: 0 agents and a mean rate in requests/s for an open loop."""

    repeat: int
    agents: int
    request_rate: float | None
    load: Load


def levels(config: RunConfig) -> list[Level]:
    """The loads of all stages in order; no two of them draw the same chances."""
    found = []
    for repeat in range(config.repeats):
        seeds = (key(config.seed, "stage", repeat, place) for place in itertools.count())
        found += [Level(repeat, *level) for level in _levels(config, seeds)]
    return found


def _levels(config: RunConfig, seeds: Iterator[int]) -> Iterator[tuple[int, float | None, Load]]:
    most = config.max_concurrency
    if not config.open:
        law = parse_think(config.think, "--think")
        for agents in config.agents:
            yield agents, None, Closed(agents, _think(law, next(seeds)))
    elif config.trace is not None:
        from loadgen.workload.file_sources import trace_of

        instants = [row.at for row in trace_of(config)]
        rate = len(instants) / instants[-1] if instants[-1] > 0 else float(len(instants))
        yield 0, rate, Open(tuple(trace_dues(instants)), most)
    else:
        for schedule in config.schedules():
            yield 0, _mean_rate(schedule.stages), Open(Dues(schedule, next(seeds)), most)


@dataclass(frozen=True, slots=True)
class Dues:
    """A schedule's instants, made afresh each time they are walked."""

    schedule: Arrivals
    seed: int

    def __iter__(self) -> Iterator[float]:
        return self.schedule.dues(self.seed)


def _think(law: ThinkTime, seed: int) -> Callable[[int, int], float] | None:
    return None if law == NO_PAUSE else lambda agent, seq: law.draw(seed, agent, seq)


def _conversations(config: RunConfig, prompts: PromptSource, turns: Lengths) -> Conversations:
    return Conversations(
        turns=turns,
        first=prompts.isl,
        following=prompts.isl,
        replies=prompts.osl,
        prefix=prompts.prefix,
        seed=config.seed,
        salt=prompts.salt,
    )


def _mean_rate(stages: Iterable[RateStage]) -> float:
    parts = [(s.expected, s.seconds, s.rate) for s in stages]
    if len(parts) == 1:
        expected, seconds, rate = parts[0]
        return rate if seconds == float("inf") else expected / seconds
    finite = [(expected, seconds) for expected, seconds, _ in parts if seconds != float("inf")]
    return sum(e for e, _ in finite) / sum(s for _, s in finite)
