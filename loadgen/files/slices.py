"""A stage over time: what completed, was generated and was in flight, second by second. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from contract.records import RequestRecord
from contract.steady import quantile

MOST_SLICES = 300  # a longer stage has wider slices: a summary stays readable
DEFINITIONS = {
    "slices": "equal parts of [start, end), `seconds` long, the last one possibly shorter; "
    "`start` is their offset in the stage, and lists run in their order",
    "slices.ok": "measured requests that ended ok in the slice; they add up to outcomes.ok",
    "slices.not_ok": "measured requests that ended otherwise in the slice",
    "slices.output_tokens": "all tokens of the requests that ended ok in the slice",
    "slices.generated_tokens": "tokens of every request of any phase, spread evenly from its "
    "first token to its last, as far as they fall into the slice",
    "slices.in_flight": "time average over the slice of requests between due and ended",
    "slices.ttft_p50": "quantiles of ttft and e2e (p50, p95) of the requests that ended ok in it",
}


def slice_seconds(length: float, wanted: float = 1.0) -> float:
    """`wanted`, or the next of 1, 2, 5, 10, 20 … times it that cuts `length` into few slices."""
    scale = wanted
    while True:
        for step in (1.0, 2.0, 5.0):
            if length / (scale * step) <= MOST_SLICES:
                return scale * step
        scale *= 10.0


class Slices:
    """Counts one stage's records, in any order, into slices of [start, end).

    Memory grows with the slices, and by 16 bytes a request for the quantiles.
    """

    def __init__(self, start: float, end: float, seconds: float) -> None:
        self.start, self.end, self.seconds = start, end, seconds
        self.number = max(1, math.ceil((end - start) / seconds - 1e-9))
        self._ok = [0] * self.number
        self._not_ok = [0] * self.number
        self._output_tokens = [0] * self.number
        self._ttfts = [array("d") for _ in range(self.number)]
        self._latencies = [array("d") for _ in range(self.number)]
        self._busy = _Spread(self)
        self._generated = _Spread(self)

    def add(self, record: RequestRecord) -> None:
        """Take one record of the stage, of any phase."""
        self._busy.add(record.due, record.ended, record.ended - record.due)
        first, last = record.first_token, record.last_token
        if first is not None and last is not None and record.output_tokens:
            self._generated.add(first, last, record.output_tokens)
        if record.phase == "measured":
            self._count(record, self.place(record.ended))

    def place(self, instant: float) -> int:
        """The slice of an instant; those outside count to the nearest one."""
        place = int((instant - self.start) / self.seconds)
        if 0 <= place < self.number:
            return place
        return 0 if place < 0 else self.number - 1

    def edges(self, place: int) -> tuple[float, float]:
        """When a slice starts and ends."""
        start = self.start + place * self.seconds
        return start, min(self.start + (place + 1) * self.seconds, self.end)

    def columns(self) -> dict[str, Any]:
        """The slices as lists by column; quantiles of slices where nothing ended are None."""
        lengths = [end - start for start, end in map(self.edges, range(self.number))]
        pairs = list(zip(self._busy.totals(), lengths, strict=True))
        return {
            "seconds": self.seconds,
            "start": [place * self.seconds for place in range(self.number)],
            "ok": self._ok,
            "not_ok": self._not_ok,
            "output_tokens": self._output_tokens,
            "generated_tokens": self._generated.totals(),
            "in_flight": [busy / length if length > 0 else 0.0 for busy, length in pairs],
            **_quantiles("ttft", self._ttfts),
            **_quantiles("e2e", self._latencies),
        }

    def _count(self, record: RequestRecord, place: int) -> None:
        if record.outcome != "ok":
            self._not_ok[place] += 1
            return
        self._ok[place] += 1
        self._output_tokens[place] += record.output_tokens or 0
        for column, value in ((self._ttfts, record.ttft), (self._latencies, record.latency)):
            if value is not None:
                column[place].append(value)


class _Spread:
    """Amounts spread evenly over intervals, as far as they overlap the slices.

    The slices inside an interval get its density through differences, so that a request costs
    the same however many it spans.
    """

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._partial = [0.0] * slices.number
        self._steps = [0.0] * (slices.number + 1)

    def add(self, start: float, end: float, amount: float) -> None:
        slices = self._slices
        if end <= start:
            if slices.start <= start < slices.end:
                self._partial[slices.place(start)] += amount
            return
        density = amount / (end - start)
        start, end = max(start, slices.start), min(end, slices.end)
        if end <= start:
            return
        first, last = slices.place(start), slices.place(end)
        if first == last:
            self._partial[first] += density * (end - start)
            return
        seconds, partial, steps = slices.seconds, self._partial, self._steps
        partial[first] += density * (slices.start + (first + 1) * seconds - start)
        partial[last] += density * (end - slices.start - last * seconds)
        steps[first + 1] += density
        steps[last] -= density

    def totals(self) -> list[float]:
        inside = accumulate(self._steps[: self._slices.number])
        seconds = self._slices.seconds
        # Sums of opposite steps leave a rounding behind that is no amount.
        return [
            max(0.0, round(partial + density * seconds, 9))
            for partial, density in zip(self._partial, inside, strict=True)
        ]


def _quantiles(name: str, values: Sequence[array[float]]) -> dict[str, list[float | None]]:
    return {f"{name}_p{100 * q:g}": [quantile(column, q) for column in values] for q in (0.5, 0.95)}
