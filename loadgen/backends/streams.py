"""What the native protocols have in common: a stream of JSON objects, and how it may end. Pure.

The outcome, in this order: what the server said of itself, how the exchange broke, what was no
protocol, a body that ended before its last word (`truncated`), ok.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import orjson

from contract.errors import BackendError, ConfigError, nearest
from contract.records import ServerFacts
from loadgen.backends.base import Raw, WireResponse
from loadgen.backends.openai import excerpt, in_one_piece, refusal
from loadgen.backends.spoken import Spoken
from loadgen.sse import events, lines
from loadgen.stopwatch import Facts, PerMark

SSE_KINDS = ("text/event-stream",)
NDJSON_KINDS = ("application/x-ndjson", "application/json")
JSON_KINDS = ("application/json",)  # one document: an answer that is not streamed


@dataclass(slots=True)
class Reading(Spoken):
    """What the objects of one stream said so far.

    `complete` is true once the protocol's last object was seen; `failure` is the outcome and
    reason the server stated itself, `fault` why this is not the protocol; `note` is something
    worth knowing about an exchange that went well.
    """

    counts: list[int] | None = None  # per read, in place of `content`
    said: list[str] = field(default_factory=list)  # the answer's text, where all is decoded
    complete: bool = False
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    server: ServerFacts | None = None
    failure: tuple[str, str] | None = None
    fault: str | None = None
    note: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing that follows can matter."""
        return self.complete or self.failure is not None or self.fault is not None


class Take(Protocol):
    """Reads one object, complete with read number `read`, into what is known of its stream."""

    def __call__(self, document: dict[str, Any], read: int, into: Reading) -> None: ...


class Alike(NamedTuple):
    """What tells the objects that carry one text each without decoding them.

    `tail` is how such an object ends, from the end of its text to the end of its line or event,
    and holds line feeds, which no JSON text does; `empty` is in those whose text is empty.
    """

    tail: bytes
    empty: bytes


def read(
    response: WireResponse, kinds: tuple[str, ...], take: Take, alike: Alike | None = None
) -> Facts:
    """The facts of an answer of one of KINDS; never raises, whatever bytes came."""
    if response.status is None:
        return Facts(outcome=response.broken or "bad_stream", content=(), error=response.detail)
    if not 200 <= response.status < 300:
        return refusal(response)
    reading = Reading()
    kind = _content_type(response)
    if kind and kind not in kinds:
        reading.fault = f"not {kinds[0]}: {excerpt(b''.join(response.reads))}"
        return _facts(reading, response)
    if response.raw is not None and alike is not None:
        counted = _counted(response.raw, take, alike)
        if counted is not None:
            return _facts(counted, response)
    _take_all(response.reads, kinds, take, reading)
    facts = _facts(reading, response)
    return in_one_piece(facts) if kinds is JSON_KINDS else facts


def text_of(response: WireResponse, kinds: tuple[str, ...], take: Take) -> str | None:
    """What was answered as far as it came; None for a refusal, or where some was dropped."""
    if response.status is None or response.status >= 300 or response.dropped:
        return None
    reading = Reading()
    _take_all(response.reads, kinds, take, reading)
    return "".join(reading.said)


def known(what: str, given: str, allowed: tuple[str, ...]) -> str:
    """`given` when it is allowed; ConfigError with the nearest name otherwise."""
    if given not in allowed:
        names = ", ".join(allowed)
        raise ConfigError(f"{what} '{given}' is unknown{nearest(given, allowed)}; allowed: {names}")
    return given


def _counted(raw: Raw, take: Take, alike: Alike) -> Reading | None:
    """A complete body by counting: exact, or None where it has to be decoded.

    Up to the last tail every line must belong to an object that is alike, none of them empty,
    HTTP's chunks must end with lines, and no tail may lie in two reads; what follows is parsed.
    """
    tail, whole = alike.tail, raw.whole
    stop = whole.rfind(tail) + len(tail)
    counts = [read.count(tail) for read in raw.reads]
    total = whole.count(tail)
    # HTTP's own lines end with CR LF, those of the body with LF: two of its own to each chunk.
    lines_of_http = whole.count(b"\r\n", 0, stop)
    lines_of_body = whole.count(b"\n", 0, stop) - lines_of_http
    if (
        not 0 < total == sum(counts)
        or lines_of_http != 2 * whole.count(b"\n\r\n", 0, stop) + 1
        or lines_of_body != total * tail.count(b"\n")
        or whole.find(alike.empty, 0, stop) >= 0
    ):
        return None
    reading = Reading(counts=counts)
    ends = list(accumulate(map(len, raw.reads)))
    for data, at in _last_objects(whole, stop, tail.count(b"\n")):
        document = _object(data)
        if document is None:
            return None  # perhaps only cut in two by HTTP's chunks
        take(document, bisect_right(ends, at), reading)
        if reading.over:
            break
    for read in reading.content:
        counts[read] += 1
    return reading


def _last_objects(whole: bytes, start: int, feeds: int) -> Iterator[tuple[bytes, int]]:
    """What may be objects in a raw body from `start` on, each with the offset of its last byte,
    the last of its `feeds` line feeds. Empty where HTTP's lines are mixed with it."""
    while start < len(whole):
        stop = whole.find(b"\n", start) + 1 or len(whole)
        line = whole[start:stop]
        if line.endswith(b"\r\n"):
            if line.strip(b"0123456789abcdefABCDEF\r\n"):
                yield b"", stop
        elif line.strip():
            yield line.removeprefix(b"data:"), stop + feeds - 2
        start = stop


def _take_all(reads: Sequence[bytes], kinds: tuple[str, ...], take: Take, reading: Reading) -> None:
    try:
        for data, read in _framed(reads, kinds):
            document = _object(data)
            if document is None:
                reading.fault = f"not a JSON object: {excerpt(data)}"
            else:
                take(document, read, reading)
            if reading.over:
                return
    except BackendError as error:
        reading.fault = error.detail


def _framed(reads: Sequence[bytes], kinds: tuple[str, ...]) -> Iterable[tuple[bytes, int]]:
    if kinds is SSE_KINDS:
        return ((event.data, event.read) for event in events(reads))
    if kinds is JSON_KINDS:
        return [(b"".join(reads), len(reads) - 1)]
    return ((line, read) for line, read in lines(reads) if line.strip())


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _facts(reading: Reading, response: WireResponse) -> Facts:
    outcome, error = _ending(reading, response)
    return Facts(
        outcome=outcome,
        finish_reason=reading.finish_reason,
        content=reading.content if reading.counts is None else PerMark(reading.counts),
        prompt_tokens=reading.prompt_tokens,
        prompt_source=None if reading.prompt_tokens is None else "server",
        output_tokens=reading.output_tokens,
        output_source=None if reading.output_tokens is None else "server",
        status=response.status,
        error=error,
        server=reading.server,
        answer=reading.answer,
    )


def _ending(reading: Reading, response: WireResponse) -> tuple[str, str | None]:
    if reading.failure:
        return reading.failure
    if response.broken:
        return response.broken, response.detail
    if reading.fault:
        return "bad_stream", reading.fault
    if not reading.complete:
        return "truncated", "the body is complete but its last object is missing"
    return "ok", reading.note


def _content_type(response: WireResponse) -> str:
    """The media type; an absent one is left to the body to decide."""
    for name, value in response.headers.items():
        if name.lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return ""
