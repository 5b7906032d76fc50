"""The view of a run: records and stages as Prometheus series, label sets born at 0."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from contract.commandline import VERSION
from contract.exporter import Instruments
from contract.metrics import metric
from contract.records import OUTCOMES, PHASES, Manifest, RequestRecord, Stage, StageKey
from loadgen.lane import COMPILED, Fold

# The histograms of measured requests that ended ok, and their values, in one order.
SECONDS = (
    "request_duration_seconds",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "send_lag_seconds",
)
SECONDS_OF = attrgetter("latency", "ttft", "tpot", "send_lag")
BACKLOG = 1000  # records that wait to be counted: what they take should not depend on the rate
PORTION = 100 if COMPILED else 8  # records counted in one turn of the loop: some 0.05 ms


@dataclass(frozen=True, slots=True)
class _Level:
    """The instruments of one number of agents, by phase (and outcome)."""

    requests: dict[tuple[str, str], Any]
    prompt_tokens: dict[str, Any]
    output_tokens: dict[str, Any]
    seconds: tuple[Any, ...]


class Observer:
    """Feeds the load generator's instruments; everything it shows is in the run directory too."""

    def __init__(self, instruments: Instruments, manifest: Manifest) -> None:
        self._show = instruments
        self._run = manifest.run
        self._epoch_unix = manifest.epoch_unix
        self._ended: deque[RequestRecord] = deque()
        self._folding = threading.Lock()
        instruments.before_scrape = self.fold
        self._sums = Fold([metric(name).buckets for name in SECONDS], SECONDS_OF).sums
        self._labels = (str(manifest.server["backend"]), str(manifest.model["name"]))
        instruments["run_info"].labels(
            run_id=manifest.run,
            backend=self._labels[0],
            model=self._labels[1],
            hardware=manifest.hardware,
            quantization=str(manifest.model.get("quantization") or "unknown"),
            version=VERSION,
        ).set(1)
        instruments["run_start_timestamp_seconds"].labels(self._run).set(manifest.epoch_unix)
        self._levels = {
            agents: self._level(agents) for agents in {key.agents for key in manifest.planned}
        }

    def expect(self, agents: int) -> None:
        """A level is about to begin; nobody may have planned it."""
        if agents not in self._levels:
            self._levels[agents] = self._level(agents)

    def _level(self, agents: int) -> _Level:
        """The series of one level. A series first seen at 1 never shows in increase(): every
        label set is created now, and looked up never again."""
        level = (*self._labels, str(agents))
        requests = self._show["requests_total"]
        return _Level(
            requests={
                (phase, outcome): requests.labels(*level, phase, outcome)
                for phase in PHASES
                for outcome in OUTCOMES
            },
            prompt_tokens=self._by_phase("prompt_tokens_total", level),
            output_tokens=self._by_phase("output_tokens_total", level),
            seconds=tuple(self._show[name].labels(*level) for name in SECONDS),
        )

    def _by_phase(self, name: str, level: tuple[str, ...]) -> dict[str, Any]:
        return {phase: self._show[name].labels(*level, phase) for phase in PHASES}

    def opened(self, stage: int, key: StageKey, start: float) -> None:
        """A stage's measured window opened at `start` seconds since the epoch."""
        gauge = self._show["stage_start_timestamp_seconds"]
        gauge.labels(self._run, str(stage), str(key.agents)).set(self._epoch_unix + start)

    def closed(self, stage: Stage) -> None:
        """A stage ended; one cut short shows no end, and so is never fitted."""
        self.fold()
        if stage.complete:
            gauge = self._show["stage_end_timestamp_seconds"]
            gauge.labels(self._run, str(stage.stage), str(stage.key.agents)).set(stage.end_unix)

    def load(self, agents: int, in_flight: int) -> None:
        """What is at work now."""
        self.fold()
        self._show["agents"].set(agents)
        self._show["requests_in_flight"].set(in_flight)

    def loop_lag(self, seconds: float) -> None:
        """One reading of the generator's event loop."""
        self._show["loop_lag_seconds"].observe(seconds)

    def record(self, record: RequestRecord) -> None:
        """One request ended; it is counted when somebody looks, at the next `load`, or when many
        wait for that."""
        self._ended.append(record)
        if len(self._ended) > BACKLOG:
            self.fold_some()

    def fold(self) -> None:
        """Count what ended since the last time; may be called from any thread."""
        with self._folding:
            while self._ended:
                self._fold(len(self._ended))

    def fold_some(self) -> bool:
        """Count a few of them, without waiting for a thread that is at it; whether there is
        more to do. The event loop has other things to do as well."""
        if not self._folding.acquire(blocking=False):
            return False
        try:
            self._fold(min(PORTION, len(self._ended)))
        finally:
            self._folding.release()
        return bool(self._ended)

    def _fold(self, most: int) -> None:
        ended = [self._ended.popleft() for _ in range(most)]
        for (agents, phase, outcome), found in self._sums(ended).items():
            level = self._levels[agents]
            level.requests[phase, outcome].inc(found.count)
            if outcome != "ok":
                continue
            level.prompt_tokens[phase].inc(found.prompt_tokens)
            level.output_tokens[phase].inc(found.output_tokens)
            for series, counts, total in zip(
                level.seconds, found.buckets, found.totals, strict=True
            ):
                series.merge(counts, total)
