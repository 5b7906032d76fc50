"""Very many durations in little memory: how often each whole microsecond came. Pure.

Nothing is lost by it where the durations are whole microseconds to begin with, as the gaps of
a record are: quantiles are those of the values one by one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Self


class Durations:
    """Durations by how often each came: whole microseconds go in, seconds come out."""

    __slots__ = ("_counts", "update")

    def __init__(self, microseconds: Iterable[int] = ()) -> None:
        self._counts = Counter(microseconds)
        self.update = self._counts.update  # takes further microseconds, at the speed of C

    def __len__(self) -> int:
        return self._counts.total()

    def __add__(self, other: Durations) -> Durations:
        both = Durations()
        for part in (self, other):
            both.update(part._counts)
        return both

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        """Those of `pairs`: microseconds, and how often."""
        durations = cls()
        durations.update(dict(pairs))
        return durations

    def pairs(self) -> list[tuple[int, int]]:
        """All of them: microseconds, and how often."""
        return list(self._counts.items())

    def count(self, microseconds: int) -> int:
        """How many are of this length."""
        return self._counts[microseconds]

    def without(self, microseconds: int) -> Durations:
        """All but those of this length."""
        return Durations.of(pair for pair in self.pairs() if pair[0] != microseconds)

    def coarse(self, seconds: float, times: int = 1) -> None:
        """Take a duration to three significant figures, so many times: then ever more of them
        need no more than some 900 entries per power of ten."""
        microseconds = round(seconds * 1e6)
        if microseconds >= 1000:
            step = 10 ** (len(str(microseconds)) - 3)
            microseconds = (microseconds + step // 2) // step * step
        self._counts[microseconds] += times

    @property
    def distinct(self) -> int:
        """How many different ones there are: what they cost in memory."""
        return len(self._counts)

    @property
    def mean(self) -> float | None:
        """Seconds; None of none."""
        total = len(self)
        return sum(us * n for us, n in self._counts.items()) / 1e6 / total if total else None

    def quantiles(self, shares: Sequence[float]) -> list[float | None]:
        """Each q-quantile in seconds, by linear interpolation between order statistics."""
        values = sorted(self._counts)
        upto = list(accumulate(self._counts[value] for value in values))
        return [self._quantile(values, upto, q) if values else None for q in shares]

    @staticmethod
    def _quantile(values: list[int], upto: list[int], q: float) -> float:
        position = q * (upto[-1] - 1)
        below = math.floor(position)
        above = min(below + 1, upto[-1] - 1)
        low, high = (values[bisect_right(upto, place)] / 1e6 for place in (below, above))
        return low + (position - below) * (high - low)
