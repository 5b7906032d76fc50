"""What counters gained in each stage, from raw samples and the stages' exact windows.

Measured-phase counters stand still outside measured windows, so a stage's gain is exact at any
scrape interval that sees it apart from the next stage of the same number of agents. Pure,
standard library only; instants in Unix seconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from analysis.prometheus_api import Series
from analysis.table import FEWEST_BLOCKS, block_number, poisson_blocks, split_cumulative


@dataclass(frozen=True, slots=True)
class Window:
    """A stage's measured window [start, end); `end` is None while it has not finished."""

    stage: int
    agents: int
    start: float
    end: float | None


class Blocks(NamedTuple):
    """Completions in equal blocks of `seconds`; `note` says so where they are not the window's
    own scatter but that of independent completions."""

    counts: tuple[float, ...]
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """Stages of one level that no scrape tells apart (mostly one), and the instants between
    whose samples their gain lies: after `since`, up to `until`."""

    windows: tuple[Window, ...]
    since: float
    until: float

    @property
    def finished(self) -> bool:
        """Whether every window of the span closed."""
        return all(each.end is not None for each in self.windows)

    @property
    def seconds(self) -> float:
        """The summed length of the windows that finished."""
        return sum(each.end - each.start for each in self.windows if each.end is not None)


def spans(windows: Sequence[Window], times: Sequence[float]) -> list[Span]:
    """Group one level's windows: neighbours with a sample at `times` between them part."""
    groups: list[list[Window]] = []
    for window in sorted(windows, key=lambda each: each.start):
        if groups and not _parted(groups[-1][-1], window, times):
            groups[-1].append(window)
        else:
            groups.append([window])
    starts = [group[0].start for group in groups]
    return [
        Span(windows=tuple(group), since=since, until=until)
        for group, since, until in zip(groups, starts, [*starts[1:], float("inf")], strict=True)
    ]


def _parted(before: Window, after: Window, times: Sequence[float]) -> bool:
    closed = before.start if before.end is None else before.end
    at = bisect_left(times, closed)
    return at < len(times) and times[at] <= after.start


def gained(series: Series | None, span: Span) -> float:
    """What a counter rose by within the span: last sample up to `until` minus last sample up to
    `since`, or minus 0 where the series began later. A drop is a restart from 0."""
    return sum(step for _, step in _steps(series, span))


def _steps(series: Series | None, span: Span) -> list[tuple[float, float]]:
    if series is None:
        return []
    first = bisect_right(series.times, span.since)
    last = bisect_right(series.times, span.until)
    values = [series.values[first - 1] if first else 0.0, *series.values[first:last]]
    rises = (after - before if after >= before else after for before, after in pairwise(values))
    return list(zip(series.times[first:last], rises, strict=True))


def blocks(series: Series, span: Span, requests: int, latency: float | None) -> Blocks:
    """Completions in equal blocks of the window.

    Between scrapes the count is taken to rise linearly, so a block spans two scrapes at least.
    Where five of those do not fit, or several stages are pooled, the blocks scatter as
    independent completions would.
    """
    [window, *more] = span.windows
    if window.end is not None and not more:
        times, counts = _cumulative(series, span, window.start, window.end)
        gaps = [after - before for before, after in pairwise(times)]
        resolved = min(len(gaps) // 2, int(span.seconds / max(gaps)))
        number = min(block_number(requests, span.seconds, latency), resolved)
        if number >= FEWEST_BLOCKS:
            return Blocks(split_cumulative(times, counts, number), span.seconds / number)
    independent = poisson_blocks(requests)
    why = "stages pooled" if more else "too few scrapes in the window"
    return Blocks(independent, span.seconds / len(independent), f"Poisson interval, {why}")


def _cumulative(
    series: Series, span: Span, start: float, end: float
) -> tuple[list[float], list[float]]:
    """The count from 0 at `start` over the samples inside the window to all of it at `end`."""
    times, counts, total = [start], [0.0], 0.0
    for at, step in _steps(series, span):
        total += step
        if start < at < end:
            times.append(at)
            counts.append(total)
    return [*times, end], [*counts, total]
