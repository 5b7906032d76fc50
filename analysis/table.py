"""The one shape that fits read: one row per finished stage, whichever source it came from.

A run directory and Prometheus both end here, so that the same run gives the same fit from
either. Seconds, requests, tokens; missing is None. Pure, standard library only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from contract.records import Verdict

FEWEST_BLOCKS, MOST_BLOCKS = 5, 20
# A block shorter than this many latencies holds the tail of its neighbour's requests.
LATENCIES_PER_BLOCK = 3.0
REQUESTS_PER_BLOCK = 5

Source = Literal["run directory", "prometheus"]


@dataclass(frozen=True, slots=True)
class Key:
    """What a fit holds for, and nothing else."""

    model: str
    backend: str
    hardware: str
    quantization: str


@dataclass(frozen=True, slots=True)
class StageRow:
    """One finished stage: what completed ok inside its window of `seconds`.

    `block_counts` are completions in equal blocks of `block_seconds` that tile the window.
    `verdicts` is None where the source has none; `why` says what is wrong with the stage, `note`
    what to know of its interval. An open loop has 0 agents.
    """

    stage: int
    agents: int
    seconds: float
    requests: int
    mean_output_tokens: float | None
    mean_prompt_tokens: float | None
    mean_latency: float | None
    outcomes: dict[str, int]
    block_counts: tuple[float, ...]
    block_seconds: float
    verdicts: tuple[Verdict, ...] | None
    good: bool
    why: str
    repeat: int = 0
    note: str = ""

    @property
    def requests_per_second(self) -> float:
        """X(N): ok completions over the length of the window."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Table:
    """All finished stages of a run, in order; `missing` names those that never finished."""

    key: Key
    runs: list[str]
    source: Source
    levels: list[StageRow]
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_name(agents: int) -> str:
    """The load of a stage as a reader says it."""
    return f"agents {agents}" if agents else "open loop"


def block_number(requests: int, seconds: float, latency: float | None) -> int:
    """Into how many equal blocks to cut a window of `seconds`.

    5 to 20, and towards 5 rather than blocks shorter than three mean latencies or with fewer
    than five completions.
    """
    wanted = min(MOST_BLOCKS, requests // REQUESTS_PER_BLOCK)
    if latency:
        wanted = min(wanted, int(seconds / (LATENCIES_PER_BLOCK * latency)))
    return max(FEWEST_BLOCKS, wanted)


def split_instants(
    instants: Sequence[float], start: float, end: float, blocks: int
) -> tuple[float, ...]:
    """Completions at `instants` over `blocks` equal parts of [start, end).

    A completion counts evenly over the time since the one before it, so that a block's edge
    between two completions adds no scatter of its own. The parts add up to len(instants).
    """
    times, counts = [start], [0.0]
    for done, instant in enumerate(sorted(instants), 1):
        at = min(max(instant, start), end)
        if at > times[-1]:
            times.append(at)
            counts.append(float(done))
        else:
            counts[-1] = float(done)
    if times[-1] < end:
        times.append(end)
        counts.append(counts[-1])
    counts[0] = 0.0
    return split_cumulative(times, counts, blocks)


def split_cumulative(
    times: Sequence[float], counts: Sequence[float], blocks: int
) -> tuple[float, ...]:
    """Increments of a cumulative count over `blocks` equal parts of [times[0], times[-1]].

    Between two samples the count is taken to rise linearly; the parts add up to
    counts[-1] - counts[0]. `times` rise strictly.
    """
    start, end = times[0], times[-1]
    inner = [start + (end - start) * i / blocks for i in range(1, blocks)]
    at_edges = [counts[0], *(_between(times, counts, edge) for edge in inner), counts[-1]]
    return tuple(after - before for before, after in pairwise(at_edges))


def poisson_blocks(requests: int) -> tuple[float, ...]:
    """Ten blocks that scatter as independent completions would, where only their sum is known.

    They alternate about the mean so that the standard error of their mean is that of a Poisson
    count, sqrt(requests). A closed loop scatters less, so the interval errs on the wide side.
    """
    blocks = 10
    mean = requests / blocks
    swing = min(mean, mean * math.sqrt((blocks - 1) / requests)) if requests else 0.0
    return tuple(mean + (swing if i % 2 else -swing) for i in range(blocks))


def _between(times: Sequence[float], counts: Sequence[float], at: float) -> float:
    after = min(bisect_right(times, at), len(times) - 1)
    left, right = times[after - 1], times[after]
    return counts[after - 1] + (counts[after] - counts[after - 1]) * (at - left) / (right - left)


def weighted_mean(rows: Sequence[StageRow], name: str) -> float | None:
    """The mean of a per-request quantity over rows, each weighted by its requests."""
    pairs = [(getattr(row, name), row.requests) for row in rows]
    known = [(value, weight) for value, weight in pairs if value is not None and weight]
    total = sum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if total else None
