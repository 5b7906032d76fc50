"""A run's records against the log of the server that wrote the tokens: errors, one by one.

Times to first token are compared as durations (first_token - sent against the first write -
arrival), gaps one by one, instants with what the kernel saw; all on clocks of the same host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import epoch_of, records_of
from bench.truth import Truth

MATCHED = 0.99  # share of records that must be found in the server's log
EARLY = 50e-6  # seconds before a send that no stamp of its arrival can lie

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Errors:
    """Client minus server of one run, seconds, signed; `early` counts stamps before the server's
    send, which no clock allows, and `merged` the gaps of tokens read together."""

    requests: int
    matched: int
    ttft: Array
    gap: Array
    late: Array
    merged: int

    @property
    def early(self) -> int:
        """Stamps before the server's send, which no clock allows."""
        return int(np.sum(self.late < -EARLY))

    @property
    def comparable(self) -> bool:
        """Whether enough of the records were found, a chunk for every token."""
        return bool(self.requests) and self.matched >= MATCHED * self.requests

    @property
    def worst(self) -> float:
        """The p99 of the error of a first token or of a gap, whichever is larger; seconds."""
        return max(percentile(np.abs(each), 99) for each in (self.ttft, self.gap) if len(each))

    def figures(self) -> dict[str, float]:
        """Percentiles of the absolute values in milliseconds."""
        named = (("TTFT", self.ttft), ("gap", self.gap), ("first stamp late by", self.late))
        return {
            f"{name} p{q}": 1e3 * percentile(np.abs(values), q)
            for name, values in named
            if len(values)
            for q in (50, 99)
        }


def errors_of(run: Path, truth: Truth) -> Errors:
    """Match the records of a run with the log by the seed each request carried."""
    epoch, index = epoch_of(run, truth), unique(truth)
    seconds, ttft, gap, late = 1e-9, [], [], []
    requests = matched = 0
    for record, nonce in finished(run):
        requests += 1
        place = index.get(nonce)
        if place is None or record["chunks"] != truth.requests["tokens"][place]:
            continue
        matched += 1
        times = truth.token_times(place)
        arrival = int(truth.requests["arrival"][place])
        ttft.append(record["first_token"] - record["sent"] - (times[0] - arrival) * seconds)
        late.append(epoch + record["first_token"] - times[0] * seconds)
        gaps = np.asarray(record.get("gaps_us", []), float) * 1e-6
        gap.append(gaps - np.diff(times) * seconds)
    return Errors(
        requests=requests,
        matched=matched,
        ttft=np.asarray(ttft, float),
        gap=np.concatenate(gap) if gap else np.zeros(0),
        late=np.asarray(late, float),
        merged=sum(record.get("gaps_us", []).count(0) for record in records_of(run)),
    )


def lateness_of(run: Path, truth: Truth) -> tuple[Array, Array]:
    """Seconds from due to arrival at the server, and from due to sent, of the records of the
    window that were found."""
    epoch, index = epoch_of(run, truth), unique(truth)
    arrivals, sends = [], []
    for record, nonce in finished(run):
        if record["phase"] == "measured" and (place := index.get(nonce)) is not None:
            arrival = int(truth.requests["arrival"][place]) * 1e-9
            arrivals.append(arrival - epoch - record["due"])
            sends.append(record["sent"] - record["due"])
    return np.asarray(arrivals, float), np.asarray(sends, float)


def unique(truth: Truth) -> dict[int, int]:
    """Where in the log each nonce stands that came exactly once."""
    nonces, first, count = np.unique(truth.requests["nonce"], return_index=True, return_counts=True)
    chosen = (count == 1) & (nonces >= 0)
    return dict(zip(nonces[chosen].tolist(), first[chosen].tolist(), strict=True))


def finished(run: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Records that ended ok with content, and the seed that their request carried."""
    for record in records_of(run):
        if record["outcome"] == "ok" and record.get("first_token") is not None:
            number = _pair(_pair(record["stage"], record["agent"]), record["seq"])
            yield record, number % 2**31


def _pair(a: int, b: int) -> int:
    """Cantor's pairing, by which loadgen numbers its requests."""
    return (a + b) * (a + b + 1) // 2 + b


def percentile(values: Array, q: float) -> float:
    """Of none it is no number."""
    return float(np.percentile(values, q)) if len(values) else float("nan")
