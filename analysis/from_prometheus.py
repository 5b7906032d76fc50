"""The latest run that Prometheus holds, as a Table: the same counts as its run directory.

Series and labels come from the metric table. A run is found by its info and start series,
which also give the process (job, instance) and the span of time in which that process was
scraped; only those samples are read, so an earlier run on the same port cannot mix in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.prometheus_api import Prometheus, Series, selector
from analysis.stage_windows import Span, Window, blocks, gained, spans
from analysis.table import Key, StageRow, Table, load_name
from contract.errors import DataError, nearest
from contract.metrics import metric

# The clocks of loadgen and Prometheus may differ by this much when a run is looked for.
CLOCK_SLACK = 300.0
SCRAPE_IT = "have Prometheus scrape loadgen as prometheus/prometheus.yml does"


@dataclass(frozen=True, slots=True)
class _Scraped:
    """One run as it was scraped: the labels of its process, first and last scrape."""

    run_id: str
    process: Mapping[str, str]
    key: Key
    first: float
    last: float


def table_from_prometheus(prometheus: Prometheus, *, run_id: str | None, lookback: float) -> Table:
    """The run `run_id`, or the one that started last within `lookback` seconds.

    DataError when there is none or its series contradict each other.
    """
    run = _find(prometheus, run_id, lookback)
    windows = _windows(prometheus, run)
    counters = _Counters(prometheus, run)
    rows: list[StageRow] = []
    warnings: list[str] = []
    for agents in sorted({window.agents for window in windows}):
        own = [window for window in windows if window.agents == agents]
        level = spans(own, counters.times(agents))
        rows += counters.rows([span for span in level if span.finished])
        warnings += filter(None, map(_pooled, level))
    rows.sort(key=lambda row: row.stage)
    missing = [_name(window) for window in windows if window.end is None]
    never = counters.levels - {window.agents for window in windows}
    missing += [f"a later stage ({load_name(agents)})" for agents in sorted(never)]
    return Table(
        key=run.key,
        runs=[run.run_id],
        source="prometheus",
        levels=rows,
        missing=missing,
        warnings=[*warnings, *(f"{name} did not finish" for name in missing)],
    )


def _find(prometheus: Prometheus, run_id: str | None, lookback: float) -> _Scraped:
    name = metric("run_start_timestamp_seconds").name
    started, now = prometheus.last_values(name, lookback)
    known = sorted({series.labels.get("run_id", "") for series in started})
    if not known:
        raise DataError(
            f"{prometheus.url}: no {name} within the last {_ago(lookback)}; {SCRAPE_IT}, "
            "or look further back with --lookback"
        )
    if run_id is not None and run_id not in known:
        raise DataError(
            f"{prometheus.url}: run '{run_id}' not found among the {len(known)} within the last "
            f"{_ago(lookback)}{nearest(run_id, known)}; --lookback looks further back"
        )
    wanted = [series for series in started if run_id in (None, series.labels.get("run_id"))]
    newest = max(wanted, key=lambda series: (series.values[0], sorted(series.labels.items())))
    return _scraped(prometheus, newest, now)


def _ago(seconds: float) -> str:
    """A length of time in the largest unit that leaves two of it or more, else in seconds."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _scraped(prometheus: Prometheus, start: Series, now: float) -> _Scraped:
    run_id = start.labels["run_id"]
    process = {name: start.labels.get(name, "") for name in ("job", "instance")}
    wanted = selector(metric("run_info").name, {"run_id": run_id, **process})
    infos = prometheus.raw(wanted, start.values[0] - CLOCK_SLACK, now)
    if len(infos) != 1:
        raise DataError(f"{prometheus.url}: {wanted}: {len(infos)} series found, 1 expected")
    [info] = infos
    names = ("model", "backend", "hardware", "quantization")
    return _Scraped(
        run_id=run_id,
        process=process,
        key=Key(**{name: info.labels.get(name, "unknown") for name in names}),
        first=info.times[0],
        last=info.times[-1],
    )


def _windows(prometheus: Prometheus, run: _Scraped) -> list[Window]:
    """The run's stages in order; the instants are the values of the series, to the digit."""
    starts = _instants(prometheus, run, "stage_start_timestamp_seconds")
    ends = _instants(prometheus, run, "stage_end_timestamp_seconds")
    windows = [
        Window(stage=stage, agents=agents, start=start, end=ends.get((stage, agents)))
        for (stage, agents), start in sorted(starts.items())
    ]
    for window in windows:
        if window.end is not None and window.end <= window.start:
            raise DataError(
                f"{prometheus.url}: run '{run.run_id}': {_name(window)} has the window "
                f"[{window.start}, {window.end}), expected two instants in order"
            )
    return windows


def _instants(prometheus: Prometheus, run: _Scraped, name: str) -> dict[tuple[int, int], float]:
    wanted = selector(metric(name).name, {"run_id": run.run_id, **run.process})
    return {
        (_count(series, "stage"), _count(series, "agents")): series.values[-1]
        for series in prometheus.raw(wanted, run.first, run.last)
        if series.values[-1] > 0
    }


def _count(series: Series, label: str) -> int:
    text = series.labels.get(label, "")
    if not (text.isascii() and text.isdigit()):
        name = series.labels.get("__name__", "")
        raise DataError(f"{name}: label {label}={text!r} found, a whole number expected")
    return int(text)


class _Counters:
    """The measured counters of one run, by level."""

    def __init__(self, prometheus: Prometheus, run: _Scraped) -> None:
        process = {**run.process, "backend": run.key.backend, "model": run.key.model}
        measured = {**process, "phase": "measured"}

        def read(name: str, labels: Mapping[str, str]) -> list[Series]:
            return prometheus.raw(selector(name, labels), run.first, run.last)

        def by_level(name: str, labels: Mapping[str, str]) -> dict[int, Series]:
            return {_count(series, "agents"): series for series in read(name, labels)}

        self._requests: dict[int, dict[str, Series]] = defaultdict(dict)
        for series in read(metric("requests_total").name, measured):
            outcome = series.labels.get("outcome", "")
            self._requests[_count(series, "agents")][outcome] = series
        duration = metric("request_duration_seconds").name
        self._seconds = by_level(f"{duration}_sum", process)
        self._durations = by_level(f"{duration}_count", process)
        self._output = by_level(metric("output_tokens_total").name, measured)
        self._prompt = by_level(metric("prompt_tokens_total").name, measured)

    @property
    def levels(self) -> set[int]:
        """The numbers of agents planned: their series exist from the start, at 0."""
        return set(self._requests)

    def times(self, agents: int) -> list[float]:
        """When the level's completions were scraped."""
        return self._ok(agents).times

    def _ok(self, agents: int) -> Series:
        try:
            return self._requests[agents]["ok"]
        except KeyError:
            name = metric("requests_total").name
            raise DataError(
                f"{name}: no series with agents {agents} and outcome ok found, though a stage "
                "with that many agents is there"
            ) from None

    def rows(self, level: Sequence[Span]) -> list[StageRow]:
        """The rows of one level's spans; pooled stages go under the number of the first."""
        return [self._row(span, repeat) for repeat, span in enumerate(level)]

    def _row(self, span: Span, repeat: int) -> StageRow:
        agents = span.windows[0].agents
        gains = {name: round(gained(each, span)) for name, each in self._requests[agents].items()}
        requests = gains["ok"]
        latency = _ratio(
            gained(self._seconds.get(agents), span), gained(self._durations.get(agents), span)
        )
        cut = blocks(self._ok(agents), span, requests, latency)
        return StageRow(
            stage=span.windows[0].stage,
            agents=agents,
            seconds=span.seconds,
            requests=requests,
            mean_output_tokens=_ratio(gained(self._output.get(agents), span), requests),
            mean_prompt_tokens=_ratio(gained(self._prompt.get(agents), span), requests),
            mean_latency=latency,
            outcomes={outcome: n for outcome, n in gains.items() if n},
            block_counts=cut.counts,
            block_seconds=cut.seconds,
            verdicts=None,
            good=True,
            why="",
            repeat=repeat,
            note=cut.note,
        )


def _ratio(total: float, count: float) -> float | None:
    """The mean; None without a count, and where nothing was counted for any of them."""
    return total / count if count and total else None


def _pooled(span: Span) -> str:
    if len(span.windows) == 1:
        return ""
    stages = ", ".join(str(window.stage) for window in span.windows)
    fate = "are pooled into one point" if span.finished else "are left out"
    load = load_name(span.windows[0].agents)
    return f"stages {stages} ({load}) {fate}: no scrape falls between them"


def _name(window: Window) -> str:
    return f"stage {window.stage} ({load_name(window.agents)})"
