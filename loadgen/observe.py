"""The view of a run: records and stages as Prometheus series, label sets born at 0."""

from __future__ import annotations

from collections.abc import Sequence

from contract.commandline import VERSION
from contract.exporter import Instruments
from contract.records import OUTCOMES, PHASES, Manifest, RequestRecord, Stage, StageKey


class Observer:
    """Feeds the load generator's instruments; everything it shows is in the run directory too."""

    def __init__(self, instruments: Instruments, manifest: Manifest) -> None:
        self._show = instruments
        self._run = manifest.run
        self._epoch_unix = manifest.epoch_unix
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
        self._born_at_zero(manifest.planned)

    def _born_at_zero(self, planned: Sequence[StageKey]) -> None:
        """A series first seen at 1 never shows in increase(): create every label set now."""
        for agents in {key.agents for key in planned}:
            level = (*self._labels, str(agents))
            for phase in PHASES:
                for outcome in OUTCOMES:
                    self._show["requests_total"].labels(*level, phase, outcome)
                self._show["prompt_tokens_total"].labels(*level, phase)
                self._show["output_tokens_total"].labels(*level, phase)
            for name in (
                "request_duration_seconds",
                "time_to_first_token_seconds",
                "time_per_output_token_seconds",
                "send_lag_seconds",
            ):
                self._show[name].labels(*level)

    def opened(self, stage: int, key: StageKey, start: float) -> None:
        """A stage's measured window opened at `start` seconds since the epoch."""
        gauge = self._show["stage_start_timestamp_seconds"]
        gauge.labels(self._run, str(stage), str(key.agents)).set(self._epoch_unix + start)

    def closed(self, stage: Stage) -> None:
        """A stage ended; one cut short shows no end, and so is never fitted."""
        if stage.complete:
            gauge = self._show["stage_end_timestamp_seconds"]
            gauge.labels(self._run, str(stage.stage), str(stage.key.agents)).set(stage.end_unix)

    def load(self, agents: int, in_flight: int) -> None:
        """What is at work now."""
        self._show["agents"].set(agents)
        self._show["requests_in_flight"].set(in_flight)

    def loop_lag(self, seconds: float) -> None:
        """One reading of the generator's event loop."""
        self._show["loop_lag_seconds"].observe(seconds)

    def record(self, record: RequestRecord) -> None:
        """One request ended."""
        level = (*self._labels, str(record.agents))
        self._show["requests_total"].labels(*level, record.phase, record.outcome).inc()
        if record.outcome != "ok":
            return
        phased = (*level, record.phase)
        self._show["prompt_tokens_total"].labels(*phased).inc(record.prompt_tokens or 0)
        self._show["output_tokens_total"].labels(*phased).inc(record.output_tokens or 0)
        if record.phase != "measured":
            return
        for name, seconds in (
            ("request_duration_seconds", record.latency),
            ("time_to_first_token_seconds", record.ttft),
            ("time_per_output_token_seconds", record.tpot),
            ("send_lag_seconds", record.send_lag),
        ):
            if seconds is not None:
                self._show[name].labels(*level).observe(seconds)
