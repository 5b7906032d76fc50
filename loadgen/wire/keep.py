"""What is kept of a long event stream: its head, and its last events. Pure.

The events dropped between are counted, each at the read that completed it.
"""

from __future__ import annotations

import re
from collections import Counter

from contract.errors import BackendError
from loadgen.sse import EVENT_BUDGET, events, lines

# An answer that is not empty, as all protocols write it: no reasoning, no role. Within a JSON
# text its quotes would be escaped.
_ANSWER = re.compile(rb'"(?:content|response|text)": ?"(?!")|"tool_calls": ?\[\{')


class Keep:
    """Thins the decoded reads of one stream: at most about `budget` bytes of them stay.

    `dropped[i]` is how many events dropped were completed by read i; `answered` is the read that
    completed the first of them with an answer in it.
    """

    def __init__(self, budget: int, *, by_line: bool) -> None:
        self.dropped: Counter[int] = Counter()
        self.answered: int | None = None
        self._by_line = by_line
        self._quarter = budget // 4
        self._first = 0  # the read, and the byte in it, at which the tail begins
        self._offset = 0
        self._size = 0  # bytes of the tail when it was last searched
        self._headed = False  # the head was set apart from the tail
        self._next = budget  # bytes of the tail from which it is searched again
        self._seen = 0  # reads measured

    def thin(self, reads: list[bytes]) -> None:
        """Drop what is too much, whole events only; BackendError when one event is endless."""
        self._size += sum(map(len, reads[self._seen :]))
        self._seen = len(reads)
        if self._size < self._next:
            return
        tail = [reads[self._first][self._offset :], *reads[self._first + 1 :]]
        span = self._span(b"".join(tail))
        if span is None:
            if self._size > EVENT_BUDGET:
                says = f"a line of the stream is over {EVENT_BUDGET} bytes"
                raise BackendError("bad_stream", says)
            self._next = 2 * self._size
            return
        self._drop(reads, tail, span)
        self._next = self._size + 2 * self._quarter

    def _span(self, text: bytes) -> tuple[int, int] | None:
        """The middle that can go: from one end of an event to another."""
        sep = b"\n" if self._by_line else b"\r\n\r\n" if b"\r\n\r\n" in text else b"\n\n"
        begin = 0
        if not self._headed:
            begin = text.find(sep, self._quarter) + len(sep)
            if begin < len(sep):
                return None
        stop = text.rfind(sep, begin, len(text) - self._quarter) + len(sep)
        return (begin, stop) if stop > begin else None

    def _drop(self, reads: list[bytes], tail: list[bytes], span: tuple[int, int]) -> None:
        gone: list[bytes] = []
        at = 0
        first = self._first
        offset = self._offset
        for number, part in enumerate(tail):
            begin, stop = (min(max(edge - at, 0), len(part)) for edge in span)
            gone.append(part[begin:stop])
            if stop > begin:
                before = reads[first + number][: offset if number == 0 else 0] + part[:begin]
                reads[first + number] = before + part[stop:]
                self._first, self._offset = first + number, len(before)
            at += len(part)
        self._size -= span[1]
        self._headed = True
        for text, completed in self._completed(gone):
            self.dropped[first + completed] += 1
            if self.answered is None and _ANSWER.search(text):
                self.answered = first + completed

    def _completed(self, gone: list[bytes]) -> list[tuple[bytes, int]]:
        if self._by_line:
            return [(line, read) for line, read in lines(gone) if line.strip()]
        return [(event.data, event.read) for event in events(gone)]
