"""What the native protocols have in common: a stream of JSON objects, and how it may end. Pure.

The outcome, in this order: what the server said of itself, how the exchange broke, what was no
protocol, a body that ended before its last word (`truncated`), ok.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from contract.errors import BackendError, ConfigError, nearest
from contract.records import ServerFacts
from loadgen.backends.base import WireResponse
from loadgen.backends.openai import excerpt, refusal
from loadgen.sse import events, lines
from loadgen.stopwatch import Facts

SSE_KINDS = ("text/event-stream",)
NDJSON_KINDS = ("application/x-ndjson", "application/json")


@dataclass(slots=True)
class Reading:
    """What the objects of one stream said so far.

    `complete` is true once the protocol's last object was seen; `failure` is the outcome and
    reason the server stated itself, `fault` why this is not the protocol; `note` is something
    worth knowing about an exchange that went well.
    """

    content: list[int] = field(default_factory=list)
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


def read_ndjson(response: WireResponse, take: Take) -> Facts:
    """The facts of newline-delimited JSON objects; never raises, whatever bytes came."""
    return _read(response, NDJSON_KINDS, take)


def read_sse(response: WireResponse, take: Take) -> Facts:
    """The facts of server-sent events that hold JSON objects; never raises."""
    return _read(response, SSE_KINDS, take)


def known(what: str, given: str, allowed: tuple[str, ...]) -> str:
    """`given` when it is allowed; ConfigError with the nearest name otherwise."""
    if given not in allowed:
        names = ", ".join(allowed)
        raise ConfigError(f"{what} '{given}' is unknown{nearest(given, allowed)}; allowed: {names}")
    return given


def _read(response: WireResponse, kinds: tuple[str, ...], take: Take) -> Facts:
    if response.status is None:
        return Facts(outcome=response.broken or "bad_stream", content=(), error=response.detail)
    if not 200 <= response.status < 300:
        return refusal(response)
    reading = Reading()
    kind = _content_type(response)
    if kind and kind not in kinds:
        reading.fault = f"not {kinds[0]}: {excerpt(b''.join(response.reads))}"
    else:
        _take_all(response.reads, kinds, take, reading)
    return _facts(reading, response)


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
        content=reading.content,
        prompt_tokens=reading.prompt_tokens,
        prompt_source=None if reading.prompt_tokens is None else "server",
        output_tokens=reading.output_tokens,
        output_source=None if reading.output_tokens is None else "server",
        status=response.status,
        error=error,
        server=reading.server,
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
