"""The OpenAI protocol as vLLM, llama-server, transformers serve and others speak it.

Renders a request's bytes, and reads facts from the bytes of its response. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from contract.errors import ConfigError, nearest
from loadgen.backends.base import Request, WireRequest, WireResponse
from loadgen.backends.body import PLAIN, Body
from loadgen.backends.openai_count import counted
from loadgen.backends.openai_stream import Reading, excerpt, message
from loadgen.sse import Event
from loadgen.stopwatch import Facts

__all__ = ["FLAVOURS", "PATHS", "OpenAiDialect", "excerpt", "message", "refusal", "said"]

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

# What a flavour takes beyond the common fields so that exactly the asked number of tokens comes.
# Servers that refuse unknown fields (transformers serve answers 422) are plain `openai`.
_EXACTLY: dict[str, Callable[[int], dict[str, Any]]] = {
    "openai": lambda _tokens: {},
    "vllm": lambda tokens: {"ignore_eos": True, "min_tokens": tokens},
    "llama-server": lambda _tokens: {"ignore_eos": True},
    "tgi": lambda _tokens: {},
}
_NAMES = {"llama-server": {"repetition_penalty": "repeat_penalty"}}
FLAVOURS = tuple(_EXACTLY)

# Reasons by which an engine says that it gave the request up.
_GIVEN_UP = ("abort", "error")


class OpenAiDialect:
    """`/v1/completions` or `/v1/chat/completions`, with usage asked for.

    `fixed` are fields of every request that only this server knows.
    """

    def __init__(
        self,
        flavour: str = "openai",
        endpoint: str = "completions",
        body: Body = PLAIN,
        **fixed: Any,
    ) -> None:
        """`flavour` is one of FLAVOURS, `endpoint` a key of PATHS; ConfigError otherwise."""
        self.name = _known("backend", flavour, FLAVOURS)
        self.endpoint = _known("endpoint", endpoint, tuple(PATHS))
        self._body = body
        self._fixed = body.sampled(**_NAMES.get(flavour, {})) | {"stream": body.streaming} | fixed
        if body.streaming:
            self._fixed["stream_options"] = {"include_usage": True}

    @property
    def streams(self) -> bool:
        """Whether answers come event by event."""
        return self._body.streaming

    def render(self, request: Request, model: str) -> WireRequest:
        """The request's bytes; usage is asked for because a chunk is not a token."""
        tokens = request.output_tokens
        body: dict[str, Any] = {"model": model, "max_tokens": tokens, "seed": request.seed}
        body |= self._fixed
        if self._body.ignore_eos:
            body |= _EXACTLY[self.name](tokens)
        if self.endpoint == "chat":
            body["messages"] = said(request)
        else:
            body["prompt"] = request.prompt
        return WireRequest(PATHS[self.endpoint], orjson.dumps(self._body.said(body)))

    def read(self, response: WireResponse) -> Facts:
        """What the exchange came to; never raises, whatever bytes came."""
        if response.status is None:
            return Facts(response.broken or "bad_stream", content=(), error=response.detail)
        if not 200 <= response.status < 300:
            return refusal(response)
        if not self._body.streaming:
            return in_one_piece(_facts(_whole(response), response))
        count = None
        if response.raw is not None and _is_event_stream(response.headers):
            count = counted(response.raw)
        if count is not None and count.believed:
            facts = _facts(count.reading, response)
            facts.content = count.content
            return facts
        facts = _facts(_decoded(response), response)
        if count is not None and count.total != len(facts.content or ()):
            facts.counted = count.total
        return facts

    def text(self, response: WireResponse) -> str | None:
        """What was answered as far as it came; None for a refusal, or where events were dropped."""
        if response.status is None or response.status >= 300 or response.dropped:
            return None
        reading = _decoded if self._body.streaming else _whole
        return "".join(reading(response, said=[]).said or ())


def said(request: Request) -> list[dict[str, str]]:
    """The messages of a chat."""
    return [{"role": role, "content": text} for role, text in request.chat]


def _facts(reading: Reading, response: WireResponse) -> Facts:
    outcome, error = _ending(reading, response)
    return reading.facts(outcome, error, response.status)


def _decoded(response: WireResponse, said: list[str] | None = None) -> Reading:
    """Every event taken by itself."""
    reading = Reading(said=said)
    if _is_event_stream(response.headers):
        reading.take_all(response)
    else:
        reading.fault = f"not an event stream: {excerpt(b''.join(response.reads))}"
    return reading


def _whole(response: WireResponse, said: list[str] | None = None) -> Reading:
    """The one document of an answer that is not streamed."""
    reading = Reading(said=said)
    if response.broken is None:
        reading.take(Event(b"".join(response.reads), len(response.reads) - 1))
    return reading


def in_one_piece(facts: Facts) -> Facts:
    """Of an answer that came whole only the end is known."""
    facts.whole = facts.outcome in ("ok", "truncated")
    facts.content, facts.answer = (), None
    return facts


def refusal(response: WireResponse) -> Facts:
    """The facts of an answer that is no 2xx.

    4xx is `rejected`, and so is a 503 that invites to come again, by Retry-After or in words
    (vLLM's admission limit sends no header); other 5xx are `server_error`. A redirect is not
    followed and is `bad_stream`.
    """
    status, body = response.status or 0, b"".join(response.reads)
    invites = "retry-after" in _folded(response.headers) or b"try again" in body.lower()
    if status >= 500:
        outcome = "rejected" if status == 503 and invites else "server_error"
    else:
        outcome = "rejected" if status >= 400 else "bad_stream"
    said = message(body)
    if 300 <= status < 400:
        said = f"redirected to {_folded(response.headers).get('location', 'nowhere')}"
    return Facts(outcome=outcome, content=(), status=status, error=f"HTTP {status}: {said}")


def _ending(reading: Reading, response: WireResponse) -> tuple[str, str | None]:
    """The outcome and its reason; what the server said of itself goes before how it ended."""
    if reading.error:
        return "server_error", reading.error
    if response.broken:
        return response.broken, response.detail
    if reading.fault:
        return "bad_stream", reading.fault
    if reading.finish_reason is None:
        return "truncated", "the body is complete but names no finish reason"
    if reading.finish_reason in _GIVEN_UP:
        return "server_error", f"the server gave up: finish reason '{reading.finish_reason}'"
    return "ok", None


def _is_event_stream(headers: Mapping[str, str]) -> bool:
    """An absent content type is left to the body to decide."""
    kind = headers.get("Content-Type") or headers.get("content-type")
    if kind is None:
        kind = _folded(headers).get("content-type", "text/event-stream")
    return kind.partition(";")[0].strip().lower() == "text/event-stream"


def _folded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _known(what: str, given: str, allowed: tuple[str, ...]) -> str:
    if given not in allowed:
        names = ", ".join(allowed)
        raise ConfigError(f"{what} '{given}' is unknown{nearest(given, allowed)}; allowed: {names}")
    return given
