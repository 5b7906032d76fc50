"""From a configuration to what drives a stage: its load, and the source of its requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from loadgen.backends.base import Message, Request, Tokenizer
from loadgen.config import RunConfig
from loadgen.engine import Load, Source
from loadgen.loops import Closed, Open
from loadgen.stopwatch import Facts, Ids
from loadgen.workload.arrivals import Arrivals, RateStage, trace_dues
from loadgen.workload.conversation_source import ConversationSource
from loadgen.workload.conversations import (
    Conversations,
    SharedPrefix,
    block_words,
    with_system,
)
from loadgen.workload.datasets import Sample, read_dataset
from loadgen.workload.draws import key
from loadgen.workload.lengths import Lengths, fixed, parse_lengths
from loadgen.workload.prompts import LEAST_TOKENS, PromptSource, fit_to_budget, numbered
from loadgen.workload.think import NO_PAUSE, ThinkTime, parse_think
from loadgen.workload.traces import TraceRow, read_trace

# A dataset is kept in memory: what lies beyond is left out, and said so in the manifest.
MOST_SAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """The samples of a file in turn, each with a nonce of its own in front."""

    samples: Sequence[Sample]
    prompts: PromptSource
    listens: ClassVar[bool] = False

    def request(self, stage: int, agent: int, seq: int) -> Request:
        number = numbered(stage, agent, seq)
        sample = self.samples[number % len(self.samples)]
        nonce = " ".join(self.prompts.unique(number))
        prefix = " ".join(self.prompts.prefix.words(self.prompts.seed, number))
        drawn = self.prompts.osl.draw(self.prompts.seed, "osl", number)
        first, *others = sample.messages
        unique = (Message(first.role, f"{nonce} {first.text}"), *others)
        text = f"{prefix} {nonce} {sample.prompt}".lstrip()
        asked = self._asked(sample) or drawn
        return Request(text, asked, number % 2**31, with_system(prefix, unique))

    def answered(self, ids: Ids, request: Request, facts: Facts) -> None:
        """Nothing is made of an answer."""

    def _asked(self, sample: Sample) -> int | None:
        tokenizer = self.prompts.tokenizer
        if sample.output_tokens is not None or sample.reply is None or tokenizer is None:
            return sample.output_tokens
        return max(1, len(tokenizer.encode(sample.reply)))


@dataclass(frozen=True, slots=True)
class TraceSource:
    """Request `seq` asks what row `seq` of a trace asked."""

    rows: Sequence[TraceRow]
    prompts: PromptSource
    listens: ClassVar[bool] = False

    def request(self, stage: int, agent: int, seq: int) -> Request:
        row = self.rows[seq]
        tokens, reply = max(LEAST_TOKENS, row.input_tokens), max(1, row.output_tokens)
        if not row.hash_ids:
            shaped = replace(self.prompts, isl=fixed(tokens), osl=fixed(reply))
            return shaped.request(stage, agent, seq)
        number = numbered(stage, agent, seq)
        text = " ".join(block_words(row.hash_ids, tokens, self.prompts.seed, number))
        if self.prompts.tokenizer is not None:
            text = fit_to_budget(text, tokens, self.prompts.tokenizer)
        return Request(text, reply, seed=number % 2**31)

    def answered(self, ids: Ids, request: Request, facts: Facts) -> None:
        """Nothing is made of an answer."""


def source_of(config: RunConfig, salt: int, tokenizer: Tokenizer | None) -> Source:
    """Where the run's requests come from. ConfigError or DataError name a bad file."""
    isl, osl = parse_lengths(config.isl, "--isl", LEAST_TOKENS), parse_lengths(config.osl, "--osl")
    prefix = SharedPrefix(config.shared_prefix, config.prefix_groups)
    prompts = PromptSource(config.seed, isl, osl, salt, tokenizer, prefix)
    turns = parse_lengths(config.turns, "--turns")
    if config.trace is not None:
        return TraceSource(trace_of(config), prompts)
    if config.dataset is not None:
        return DatasetSource(_samples(config.dataset, config.dataset_type), prompts)
    if turns.most > 1:
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


def trace_of(config: RunConfig) -> list[TraceRow]:
    """The rows of the configured trace."""
    assert config.trace is not None
    path = Path(config.trace)
    return read_trace(path, config.trace_type, config.trace_time_unit, config.trace_speed)


def _think(law: ThinkTime, seed: int) -> Callable[[int, int], float] | None:
    return None if law == NO_PAUSE else lambda agent, seq: law.draw(seed, agent, seq)


def _samples(path: str, kind: str | None) -> list[Sample]:
    return list(itertools.islice(read_dataset(Path(path), kind), MOST_SAMPLES))


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
