"""The records of several files that still grow, in the order they ended, one held of each."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from contract.errors import DataError
from contract.records import RequestRecord


class Merge:
    """Reads on in all files together.

    `upto[k]` is the instant before which everything that ended is in file k: the caller moves
    it. `taken[k]` counts the records that were taken from it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.upto = [-math.inf] * len(files)
        self.taken = [0] * len(files)
        try:
            self._files = [file.open("rb") for file in files]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
        self._heads: list[RequestRecord | None] = [None] * len(files)

    @property
    def limit(self) -> float:
        """The instant before which everything is known."""
        return min(self.upto)

    def settled(self) -> Iterator[RequestRecord]:
        """The records that nothing can come before any more; in a tie, by the file's number."""
        limit = self.limit
        heap = [(head.ended, k) for k in range(len(self._files)) if (head := self._head(k))]
        heapq.heapify(heap)
        while heap and heap[0][0] < limit:
            k = heap[0][1]
            record, self._heads[k] = self._heads[k], None
            self.taken[k] += 1
            if head := self._head(k):
                heapq.heapreplace(heap, (head.ended, k))
            else:
                heapq.heappop(heap)
            assert record is not None
            yield record

    def close(self) -> None:
        """Read no more."""
        for file in self._files:
            file.close()

    def _head(self, k: int) -> RequestRecord | None:
        """The next record of a file; None where its next line is not there, or not whole."""
        if self._heads[k] is None:
            file = self._files[k]
            line = file.readline()
            if line.endswith(b"\n"):
                self._heads[k] = RequestRecord.from_own(orjson.loads(line))
            elif line:
                file.seek(-len(line), 1)
        return self._heads[k]
