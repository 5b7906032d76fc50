"""Requests that a file holds: the samples of a dataset, the rows of a trace."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from loadgen.backends.base import Message, Request
from loadgen.config import RunConfig
from loadgen.stopwatch import Facts, Ids
from loadgen.workload.conversations import block_words, with_system
from loadgen.workload.datasets import Sample, read_dataset
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import LEAST_TOKENS, PromptSource, fit_to_budget, numbered
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


def source_from_file(config: RunConfig, prompts: PromptSource) -> DatasetSource | TraceSource:
    """The configured trace, else the dataset. ConfigError or DataError name a bad file."""
    if config.trace is not None:
        return TraceSource(trace_of(config), prompts)
    assert config.dataset is not None
    return DatasetSource(_samples(config.dataset, config.dataset_type), prompts)


def trace_of(config: RunConfig) -> list[TraceRow]:
    """The rows of the configured trace."""
    assert config.trace is not None
    path = Path(config.trace)
    return read_trace(path, config.trace_type, config.trace_time_unit, config.trace_speed)


def _samples(path: str, kind: str | None) -> list[Sample]:
    return list(itertools.islice(read_dataset(Path(path), kind), MOST_SAMPLES))
