"""One stage as the JSON of `vllm bench serve --save-result`, key for key as vLLM 0.32.0. Pure.

The definitions are vLLM's as well: its TTFT and latency start when a request is sent, its ITL
is the gap between chunks, what was not seen is 0. The differences that remain are listed in
docs/definitions.md.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any

from contract.records import Manifest, RequestRecord, Stage
from loadgen.figures.goodput import Objectives

METRICS = ("ttft", "tpot", "itl", "e2el")
LISTS = (
    *("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times"),
    *("queue_times", "generated_texts", "errors"),
)
ALWAYS = ("latencies", "queue_times")  # vLLM drops the others from a file that is not detailed
DETAILS = tuple(name for name in LISTS if name not in ALWAYS)


def _floats() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Bench:
    """What a stage's measured requests add up to in vLLM's terms; seconds since the epoch.

    Gaps are kept as counts of whole microseconds, so that memory does not grow with tokens
    unless `detailed`.
    """

    start: float = 0.0  # of the window
    detailed: bool = False
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    good: int = 0
    objectives: Objectives | None = None
    gaps: Counter[int] = field(default_factory=Counter)
    ttfts: array[float] = field(default_factory=_floats)
    tpots: array[float] = field(default_factory=_floats)
    latencies: array[float] = field(default_factory=_floats)  # of all requests, 0 where none
    queue_times: array[float] = field(default_factory=_floats)  # of all requests
    ok_latencies: array[float] = field(default_factory=_floats)
    sents: array[float] = field(default_factory=_floats)  # of the completed
    lasts: array[float] = field(default_factory=_floats)  # of the completed
    by_second: dict[int, float] = field(default_factory=dict)  # tokens
    details: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in DETAILS})

    def add(self, record: RequestRecord) -> None:
        """Take one record; only those of the measured phase count."""
        if record.phase != "measured":
            return
        sent = record.due if record.sent is None else record.sent
        latency = 0.0 if record.last_token is None else record.last_token - sent
        ok = record.outcome == "ok"
        self.latencies.append(latency)
        self.queue_times.append(sent - record.due)
        ttft = 0.0 if record.first_token is None else record.first_token - sent
        if ok:
            self._complete(record, sent, ttft, latency)
        else:
            self.failed += 1
        if self.detailed:
            self._detail(record, sent, ttft)

    def _complete(self, record: RequestRecord, sent: float, ttft: float, latency: float) -> None:
        tokens = record.output_tokens or 0
        self.completed += 1
        self.input_tokens += record.prompt_tokens or 0
        self.output_tokens += tokens
        self.ttfts.append(ttft)
        self.ok_latencies.append(latency)
        self.sents.append(sent)
        self.lasts.append(sent + latency)
        self.gaps.update(record.gaps_us)
        if tokens > 1 and record.first_token is not None:
            self.tpots.append((latency - ttft) / (tokens - 1))
        if self.objectives is not None:
            self.good += self.objectives.met_by(record)
        self._by_second(record)

    def _by_second(self, record: RequestRecord) -> None:
        """Each chunk counts the tokens it carried on average, in the second it came."""
        if record.first_token is None or not record.chunks:
            return
        first = record.first_token - self.start
        share = (record.output_tokens or 0) / record.chunks
        for after in accumulate(record.gaps_us, initial=0):
            second = math.floor(first + after / 1e6)
            self.by_second[second] = self.by_second.get(second, 0.0) + share

    def _detail(self, record: RequestRecord, sent: float, ttft: float) -> None:
        ok = record.outcome == "ok"
        for name, value in (
            ("input_lens", record.prompt_tokens or 0),
            ("output_lens", (record.output_tokens or 0) if ok else 0),
            ("start_times", sent),
            ("ttfts", ttft),
            ("itls", [gap / 1e6 for gap in record.gaps_us]),
            ("generated_texts", ""),
            ("errors", "" if ok else record.error or record.outcome),
        ):
            self.details[name].append(value)


def document(
    bench: Bench,
    stage: Stage,
    manifest: Manifest,
    metrics: Sequence[str] = ("ttft", "tpot", "itl"),
    percentiles: Sequence[float] = (99.0,),
) -> dict[str, Any]:
    """The document vLLM would have written, in its order of keys."""
    seconds = stage.end - stage.start
    found = {
        **_setup(bench, stage, manifest),
        "duration": seconds,
        "completed": bench.completed,
        "failed": bench.failed,
        "total_input_tokens": bench.input_tokens,
        "total_output_tokens": bench.output_tokens,
        "request_throughput": _per(bench.completed, seconds),
        "request_goodput": _per(bench.good, seconds) if bench.objectives else None,
        "output_throughput": _per(bench.output_tokens, seconds),
        "total_token_throughput": _per(bench.input_tokens + bench.output_tokens, seconds),
        **_lists(bench),
        "max_output_tokens_per_s": max(bench.by_second.values(), default=0.0),
        "max_concurrent_requests": _peak(bench.sents, bench.lasts),
        "rtfx": 0.0,
    }
    for name in METRICS:
        if name in metrics:
            found.update(_statistics(name, _counts(bench, name), percentiles))
    return found


def file_name(document: Mapping[str, Any]) -> str:
    """The name vLLM gives such a file, without what cannot be printed."""
    model = str(document["model_id"]).split("/")[-1]
    limit = document["max_concurrency"]
    concurrency = "" if limit is None else f"-concurrency{limit}"
    rate = document["request_rate"]
    name = f"{document['backend']}-{rate}qps{concurrency}-{model}-{document['date']}.json"
    return "".join(sign if sign.isprintable() else "_" for sign in name)


def _setup(bench: Bench, stage: Stage, manifest: Manifest) -> dict[str, Any]:
    config = manifest.config
    backend = stage.key.backend
    settings = config.get("backend")
    if isinstance(settings, dict) and settings.get("endpoint") == "chat":
        backend = "openai-chat"
    rate = stage.key.request_rate
    limit = stage.key.agents if rate is None else config.get("max_concurrency")
    burstiness = config.get("burstiness")
    return {
        "date": datetime.fromtimestamp(stage.end_unix).strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": stage.key.model,
        "tokenizer_id": stage.key.model,
        "num_prompts": bench.completed + bench.failed,
        "request_rate": rate or "inf",
        "burstiness": 1.0 if burstiness is None else burstiness,
        "max_concurrency": limit,
    }


def _lists(bench: Bench) -> dict[str, Any]:
    kept = {"latencies": list(bench.latencies), "queue_times": list(bench.queue_times)}
    if not bench.detailed:
        return kept
    told = bench.details
    return {name: kept.get(name, told.get(name)) for name in LISTS}


def _counts(bench: Bench, name: str) -> Sequence[tuple[float, int]]:
    """A metric's values in ascending order, each with how often it was seen; seconds."""
    if name == "itl":
        return [(gap / 1e6, seen) for gap, seen in sorted(bench.gaps.items())]
    values = {"ttft": bench.ttfts, "tpot": bench.tpots, "e2el": bench.ok_latencies}[name]
    return [(value, 1) for value in sorted(values)]


def _statistics(
    name: str, counts: Sequence[tuple[float, int]], percentiles: Sequence[float]
) -> dict[str, float]:
    """Mean, median, population standard deviation and percentiles in ms; 0 for no values."""
    number = sum(seen for _, seen in counts)
    mean = math.fsum(value * seen for value, seen in counts) / number if number else 0.0
    squares = math.fsum((value - mean) ** 2 * seen for value, seen in counts)
    found = {
        f"mean_{name}_ms": mean * 1e3,
        f"median_{name}_ms": _at(counts, number, 0.5) * 1e3,
        f"std_{name}_ms": math.sqrt(squares / number) * 1e3 if number else 0.0,
    }
    for percentile in percentiles:
        found[f"p{percentile:g}_{name}_ms"] = _at(counts, number, percentile / 100) * 1e3
    return found


def _at(counts: Sequence[tuple[float, int]], number: int, q: float) -> float:
    """The q-quantile by linear interpolation between order statistics."""
    if not number:
        return 0.0
    position = q * (number - 1)
    below = math.floor(position)
    lower, upper = _order(counts, below), _order(counts, min(below + 1, number - 1))
    return lower + (position - below) * (upper - lower)


def _order(counts: Sequence[tuple[float, int]], rank: int) -> float:
    passed = 0
    for value, seen in counts:
        passed += seen
        if rank < passed:
            return value
    return counts[-1][0]


def _per(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _peak(starts: Sequence[float], ends: Sequence[float]) -> int:
    """The most requests at once; one that ends makes room for one that starts then."""
    peak, ended, over = 0, 0, sorted(ends)
    for begun, start in enumerate(sorted(starts), 1):
        while ended < len(over) and over[ended] <= start:
            ended += 1
        peak = max(peak, begun - ended)
    return peak
