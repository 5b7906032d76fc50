"""Server-sent events, read from the body of one response after its end. Pure.

How the body was cut into reads decides only which read completes an event, never what the
events are: the reads are joined first, and offsets are mapped back to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from contract.errors import BackendError

EVENT_BUDGET = 16 * 2**20  # bytes of one line or of one event's data


class Event(NamedTuple):
    """One dispatched event: its data lines joined by LF, and the read that completed it."""

    data: bytes
    read: int
    name: str = ""


def lines(reads: Sequence[bytes], budget: int = EVENT_BUDGET) -> Iterator[tuple[bytes, int]]:
    """Each line without its LF or CRLF, with the index of the read that completed it.

    A last line without an end counts as complete. Raises BackendError(`bad_stream`) when a
    line is longer than `budget` bytes.
    """
    body = b"".join(reads)
    arrived = list(accumulate(map(len, reads)))
    start = read = 0
    while start < len(body):
        stop = body.find(b"\n", start) + 1 or len(body)
        if stop - start > budget:
            raise BackendError("bad_stream", f"a line of the stream is over {budget} bytes")
        while arrived[read] < stop:
            read += 1
        yield body[start:stop].removesuffix(b"\n").removesuffix(b"\r"), read
        start = stop


def events(reads: Sequence[bytes], budget: int = EVENT_BUDGET) -> Iterator[Event]:
    """The events of a stream in order (WHATWG HTML, section 9.2), comments left out.

    Unlike a browser this also dispatches a last event whose blank line is missing. Raises
    BackendError(`bad_stream`) when a line or the data of one event is over `budget` bytes.
    """
    data: list[bytes] = []
    name = ""
    size = read = 0
    for line, at in lines(reads, budget):
        if not line:
            if data:
                yield Event(b"\n".join(data), at, name)
            data, name, size = [], "", 0
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
            read, size = at, size + len(value)
            if size > budget:
                raise BackendError("bad_stream", f"an event of the stream is over {budget} bytes")
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    if data:
        yield Event(b"\n".join(data), read, name)
