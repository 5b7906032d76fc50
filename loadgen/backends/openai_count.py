"""Counting the chunks of a stream whose chunks are alike, without decoding them. Pure.

What follows the text of one chunk, up to the empty line, follows that of every other; so the
chunks that a read completed are the times that this tail occurs in it. Head and end of the
stream are parsed. The sum must be the number of tokens that the server counted itself: then
every chunk was one token. Otherwise (merged or empty chunks, tails cut by a read) nothing is
believed, and the stream has to be decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from loadgen.backends.base import Raw
from loadgen.backends.openai_stream import Reading, count
from loadgen.sse import Event
from loadgen.stopwatch import PerMark

HEAD_EVENTS, LAST_EVENTS = 4, 8
_FRAMING = b"0123456789abcdefABCDEF\r\n"  # of chunk sizes and their ends


class Count(NamedTuple):
    """What head and end of a stream said, and its content by counting."""

    reading: Reading
    content: PerMark
    total: int  # in the whole body, chunks that two reads share included

    @property
    def believed(self) -> bool:
        """Whether the server counted as many tokens as the reads chunks."""
        return len(self.content) == count(self.reading.usage.get("completion_tokens"))


def counted(raw: Raw) -> Count | None:
    """The count of one stream, None when its chunks are not alike."""
    reading = Reading()
    ends = list(accumulate(map(len, raw.reads)))
    head = _head(raw.whole, reading)
    if head is None or reading.frame is None:
        return None
    begin, spoken = head
    tail = reading.frame[1] + b"\n\n"
    counts = [read.count(tail) for read in raw.reads]
    parsed = _ends(raw.whole, tail, begin)
    for end in parsed:
        counts[bisect_right(ends, end - 1)] -= 1
    last = _last(raw.whole, raw.whole.rfind(tail) + len(tail), reading)
    if last is None:
        return None
    for end in (*spoken, *last):
        counts[bisect_right(ends, end - 1)] += 1
    total = sum(counts)
    if total != count(reading.usage.get("completion_tokens")):
        total = raw.whole.count(tail) - len(parsed) + len(spoken) + len(last)
    return Count(reading, PerMark(counts), total)


def _head(whole: bytes, reading: Reading) -> tuple[int, list[int]] | None:
    """Parse up to the first chunk that shows how chunks are framed.

    Returns where that one begins, and where those before it that held content end.
    """
    at = 0
    spoken: list[int] = []
    for _ in range(HEAD_EVENTS):
        if (found := _event(whole, at)) is None:
            return None
        data, end = found
        before = len(reading.content)
        reading.take(Event(data, 0))
        if reading.failed:
            return None
        if reading.frame is not None:
            return at, spoken
        spoken += [end] * (len(reading.content) - before)
        at = end
    return None


def _ends(whole: bytes, tail: bytes, stop: int) -> list[int]:
    """Where each `tail` before `stop` ends."""
    found = []
    at = whole.find(tail, 0, stop)
    while at >= 0:
        at += len(tail)
        found.append(at)
        at = whole.find(tail, at, stop)
    return found


def _last(whole: bytes, at: int, reading: Reading) -> list[int] | None:
    """Parse all events from `at` on; where those that held content end."""
    spoken: list[int] = []
    for _ in range(LAST_EVENTS):
        if (found := _event(whole, at)) is None:
            return None if whole[at:].strip(_FRAMING) else spoken
        data, at = found
        if data == b"[DONE]":
            return spoken
        before = len(reading.content)
        reading.take(Event(data, 0))
        if reading.failed:
            return None
        spoken += [at] * (len(reading.content) - before)
    return None


def _event(whole: bytes, at: int) -> tuple[bytes, int] | None:
    """The event that follows at once, if it is one line of data, and its end."""
    start = whole.find(b"data:", at, at + 64)
    stop = whole.find(b"\n\n", start) if start >= 0 else -1
    if stop < 0 or whole[at:start].strip(_FRAMING):
        return None
    data = whole[start + 5 : stop].removeprefix(b" ")
    return None if b"\r" in data or b"\n" in data else (data, stop + 2)
