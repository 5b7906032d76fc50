"""Counting the chunks of a stream whose chunks are alike, without decoding them. Pure.

What follows the text of one chunk, up to the empty line, follows that of every other; so the
chunks that a read completed are the times that this tail occurs in it. Head and end of the
stream are parsed. The sum must be the number of tokens that the server counted itself: then
every chunk was one token. Otherwise (merged or empty chunks, tails cut by a read) nothing is
believed, and the stream has to be decoded.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from loadgen.backends.base import Raw
from loadgen.backends.openai_stream import Reading, count
from loadgen.sse import Event
from loadgen.stopwatch import PerMark

EVENTS = 8  # parsed at either end
SOUGHT = 9  # bytes at the end of an event: more are slower to find, fewer are too
_FRAMING = b"0123456789abcdefABCDEF\r\n"  # of chunk sizes and their ends
_EVENT = re.compile(rb"[0-9a-fA-F\r\n]{0,64}?data: ?([^\r\n]*)\n\n")


class Count(NamedTuple):
    """What head and end of a stream said, and its content by counting."""

    reading: Reading
    content: PerMark
    total: int  # in the whole body, chunks that two reads share included
    parsed: bool = False  # every event of it was

    @property
    def believed(self) -> bool:
        """Whether the server counted as many tokens as the reads chunks, if that matters."""
        tokens = count(self.reading.usage.get("completion_tokens"))
        return self.parsed or len(self.content) == self.total == tokens


def counted(raw: Raw) -> Count | None:
    """The count of one stream, None when its chunks are not alike."""
    reading = Reading()
    whole = raw.whole
    spoken: list[int] = []  # where events end that were parsed and held content
    begin = _parse(whole, 0, reading, spoken, until_framed=True)
    if reading.reasoned:
        return None  # chunks of two kinds, and where one ends and the other begins is asked
    if begin is None or reading.frame is None:
        content = PerMark(_placed(spoken, [0] * len(raw.reads), raw))
        return None if begin is None else Count(reading, content, len(spoken), parsed=True)
    tail = reading.frame[1] + b"\n\n"
    last = whole.rfind(tail) + len(tail)
    tail = tail[-SOUGHT:]
    counts = [read.count(tail) for read in raw.reads]
    parsed = [*_ends(whole, tail, 0, begin), *_ends(whole, tail, last, len(whole))]
    if _parse(whole, last, reading, spoken, until_framed=False) is None:
        return None
    _placed(parsed, _placed(spoken, counts, raw), raw, by=-1, size=len(tail))
    total = whole.count(tail) - len(parsed) + len(spoken)
    if whole.count(b"\n\n", begin, last) != whole.count(tail, begin, last):
        return None  # something stands between the chunks, and perhaps it is an error
    return Count(reading, PerMark(counts), total)


def _placed(ends: list[int], counts: list[int], raw: Raw, by: int = 1, size: int = 1) -> list[int]:
    """`counts` with `by` added at the read of each place where something of `size` bytes ends that
    no other read has a part of."""
    if ends:
        arrived = list(accumulate(map(len, raw.reads)))
        for end in ends:
            read = bisect_right(arrived, end - 1)
            if size == 1 or bisect_right(arrived, end - size) == read:
                counts[read] += by
    return counts


def _parse(
    whole: bytes, at: int, reading: Reading, spoken: list[int], *, until_framed: bool
) -> int | None:
    """Take the events from `at` on; None when these are not what can be counted.

    Returns where the chunk begins that showed how chunks are framed (which is not added to
    `spoken`, as it is counted), or where the stream ended.
    """
    for _ in range(EVENTS):
        if (found := _event(whole, at)) is None:
            return None if whole[at:].strip(_FRAMING) else at
        data, end = found
        if data == b"[DONE]":
            return end
        before = len(reading.content)
        reading.take(Event(data, 0))
        if reading.failed:
            return None
        if until_framed and reading.frame is not None:
            return at
        spoken += [end] * (len(reading.content) - before)
        at = end
    return None


def _ends(whole: bytes, tail: bytes, start: int, stop: int) -> list[int]:
    """Where each `tail` between `start` and `stop` ends."""
    found = []
    at = whole.find(tail, start, stop)
    while at >= 0:
        at += len(tail)
        found.append(at)
        at = whole.find(tail, at, stop)
    return found


def _event(whole: bytes, at: int) -> tuple[bytes, int] | None:
    """The event that follows at once, if it is one line of data, and its end."""
    found = _EVENT.match(whole, at)
    return None if found is None else (found[1], found.end())
