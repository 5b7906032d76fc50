"""The OpenAI protocol as vLLM, llama-server, transformers serve and others speak it.

Renders a request's bytes, and reads facts from the bytes of its response. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import orjson

from contract.errors import BackendError, ConfigError, nearest
from contract.records import ServerFacts
from loadgen.backends.base import Request, WireRequest, WireResponse
from loadgen.sse import Event, events
from loadgen.stopwatch import Facts

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

# What a flavour takes beyond the common fields so that exactly the asked number of tokens comes.
# Servers that refuse unknown fields (transformers serve answers 422) are plain `openai`.
_EXTRAS: dict[str, Callable[[int], dict[str, Any]]] = {
    "openai": lambda _tokens: {},
    "vllm": lambda tokens: {"ignore_eos": True, "min_tokens": tokens},
    "llama-server": lambda _tokens: {"ignore_eos": True},
}
FLAVOURS = tuple(_EXTRAS)

# Fields of a delta that hold generated tokens; a role or an empty string is none.
_SPEECH = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal")
# Reasons by which an engine says that it gave the request up.
_GIVEN_UP = ("abort", "error")
EXCERPT_CHARACTERS = 200


class OpenAiDialect:
    """`/v1/completions` or `/v1/chat/completions`, streamed, greedy, with usage asked for."""

    def __init__(self, flavour: str = "openai", endpoint: str = "completions") -> None:
        """`flavour` is one of FLAVOURS, `endpoint` a key of PATHS; ConfigError otherwise."""
        self.name = _known("backend", flavour, FLAVOURS)
        self.endpoint = _known("endpoint", endpoint, tuple(PATHS))

    def render(self, request: Request, model: str) -> WireRequest:
        """The request's bytes; usage is asked for because a chunk is not a token."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": request.output_tokens,
            "temperature": 0.0,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_EXTRAS[self.name](request.output_tokens),
        }
        if self.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": request.prompt}]
        else:
            body["prompt"] = request.prompt
        return WireRequest(PATHS[self.endpoint], orjson.dumps(body))

    def read(self, response: WireResponse) -> Facts:
        """What the exchange came to; never raises, whatever bytes came."""
        if response.status is None:
            return Facts(outcome=response.broken or "bad_stream", error=response.detail)
        if not 200 <= response.status < 300:
            return refusal(response)
        reading = _Reading()
        if not _is_event_stream(response.headers):
            reading.fault = f"not an event stream: {excerpt(b''.join(response.reads))}"
        else:
            reading.take_all(response)
        outcome, error = _ending(reading, response)
        return reading.facts(outcome, error, response.status)


@dataclass(slots=True)
class _Reading:
    """What the events of one stream said so far; of usage and timings the last one counts."""

    content: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    fault: str | None = None
    # What stands before and after the text in a chunk of this stream that was parsed whole.
    frame: tuple[bytes, bytes] | None = None

    def take_all(self, response: WireResponse) -> None:
        try:
            for event in events(response.reads):
                if event.data == b"[DONE]" or self.error or self.fault:
                    return
                self.take(event)
        except BackendError as error:
            self.fault = error.detail

    def take(self, event: Event) -> None:
        if self.frame and not event.name and _repeats(event.data, self.frame):
            self.content.append(event.read)
            return
        try:
            document = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            self.fault = f"an event is not a JSON object: {excerpt(event.data)}"
        elif document.get("error") or event.name == "error":
            self.error = message(event.data)
        else:
            self._take_chunk(document, event.read)
            self.frame = self.frame or _frame(document, event.data)

    def _take_chunk(self, document: dict[str, Any], read: int) -> None:
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                if _speaks(choice):
                    self.content.append(read)
                if isinstance(reason := choice.get("finish_reason"), str):
                    self.finish_reason = reason
        self.usage = _mapping(document.get("usage")) or self.usage
        self.metrics = _mapping(document.get("metrics")) or self.metrics
        self.timings = _mapping(document.get("timings")) or self.timings

    def facts(self, outcome: str, error: str | None, status: int) -> Facts:
        prompt = _count(self.usage.get("prompt_tokens"))
        output = _count(self.usage.get("completion_tokens"))
        return Facts(
            outcome=outcome,
            finish_reason=self.finish_reason,
            content=self.content,
            prompt_tokens=prompt,
            prompt_source=None if prompt is None else "server",
            output_tokens=output,
            output_source=None if output is None else "server",
            status=status,
            error=error,
            server=_server_facts(self),
        )


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


def message(body: bytes) -> str:
    """The message of an error body in any of the usual shapes, else its beginning."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return excerpt(body)
    said: Any = document
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return said if isinstance(said, str) else excerpt(body)


def excerpt(body: bytes) -> str:
    """The beginning of a body, on one line."""
    text = " ".join(body[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace").split())
    return text[:EXCERPT_CHARACTERS] or "(empty body)"


def _ending(reading: _Reading, response: WireResponse) -> tuple[str, str | None]:
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


def _frame(document: dict[str, Any], data: bytes) -> tuple[bytes, bytes] | None:
    """Where the text stands in a chunk that holds one choice with text and nothing more to say.

    Chunks of one stream differ in their text alone, so those that follow need no parsing.
    """
    choices = document.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    choice = choices[0]
    if choice.get("finish_reason") or any(document.get(k) for k in ("usage", "metrics", "timings")):
        return None
    key, text = "text", choice.get("text")
    if isinstance(delta := choice.get("delta"), dict):
        key, text = "content", delta.get("content")
    if not isinstance(text, str) or not text:
        return None
    for said in (f'"{key}":'.encode(), f'"{key}": '.encode()):
        before, found, after = data.partition(said + orjson.dumps(text))
        if found:
            return before + said + b'"', b'"' + after
    return None


def _repeats(data: bytes, frame: tuple[bytes, bytes]) -> bool:
    """Whether a chunk is the frame around some text; text with a quote in it is parsed instead."""
    before, after = frame
    if not (data.startswith(before) and data.endswith(after)):
        return False
    text = data[len(before) : -len(after)]
    return (
        bool(text) and len(data) > len(before) + len(after) and b'"' not in text and text[-1] != 92
    )


def _speaks(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return any(delta.get(name) for name in _SPEECH)
    return bool(choice.get("text"))


def _server_facts(reading: _Reading) -> ServerFacts | None:
    """What vLLM's `metrics` or llama-server's `timings` and usage say, in seconds and tokens."""
    metrics, timings = reading.metrics, reading.timings
    queue, ttft = (_seconds(metrics.get(k)) for k in ("queue_time_ms", "time_to_first_token_ms"))
    prefill = _seconds(timings.get("prompt_ms"))
    if ttft is not None and queue is not None:
        prefill = max(ttft - queue, 0.0)
    decode = _seconds(metrics.get("generation_time_ms"))
    cached = _count(_mapping(reading.usage.get("prompt_tokens_details")).get("cached_tokens"))
    facts = ServerFacts(
        queue=queue,
        prefill=prefill,
        decode=_seconds(timings.get("predicted_ms")) if decode is None else decode,
        cached_prompt_tokens=_count(timings.get("cache_n")) if cached is None else cached,
    )
    return None if facts == ServerFacts() else facts


def _is_event_stream(headers: Mapping[str, str]) -> bool:
    """An absent content type is left to the body to decide."""
    kind = _folded(headers).get("content-type", "text/event-stream")
    return kind.partition(";")[0].strip().lower() == "text/event-stream"


def _folded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _seconds(milliseconds: Any) -> float | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    return milliseconds / 1e3 if isfinite(milliseconds) and milliseconds >= 0 else None


def _known(what: str, given: str, allowed: tuple[str, ...]) -> str:
    if given not in allowed:
        names = ", ".join(allowed)
        raise ConfigError(f"{what} '{given}' is unknown{nearest(given, allowed)}; allowed: {names}")
    return given
