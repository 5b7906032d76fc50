"""The events of one OpenAI-protocol stream, taken one by one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import orjson

from contract.errors import BackendError
from contract.records import ServerFacts
from loadgen.backends.base import WireResponse
from loadgen.backends.spoken import Spoken
from loadgen.sse import Event, events
from loadgen.stopwatch import Facts

# Fields of a delta that hold generated tokens; a role or an empty string is none.
_REASONING = ("reasoning_content", "reasoning")
_ANSWER = ("content", "tool_calls", "function_call", "refusal")
EXCERPT_CHARACTERS = 200


@dataclass(slots=True)
class Reading(Spoken):
    """What the events of one stream said so far; of usage and timings the last one counts."""

    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    fault: str | None = None
    said: list[str] | None = None  # the answer's text, where it is wanted
    # What stands before and after the text in a chunk of this stream that was parsed whole.
    frame: tuple[bytes, bytes] | None = None

    @property
    def failed(self) -> bool:
        """Whether nothing that follows can matter."""
        return self.error is not None or self.fault is not None

    def take_all(self, response: WireResponse) -> None:
        """Every event of the body, to its end or to [DONE]."""
        try:
            for event in events(response.reads):
                if event.data == b"[DONE]" or self.failed:
                    return
                self.take(event)
        except BackendError as error:
            self.fault = error.detail

    def take(self, event: Event) -> None:
        """One event."""
        known = self.frame if self.said is None and not event.name else None
        if known and _repeats(event.data, known):
            self.content.append(event.read)
            return
        try:
            document = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            self.fault = f"not a JSON object: {excerpt(event.data)}"
        elif document.get("error") or event.name == "error":
            self.error = message(event.data)
        else:
            self._take_chunk(document, event.read)
            self.frame = _frame(document, event.data) or self.frame

    def _take_chunk(self, document: dict[str, Any], read: int) -> None:
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._take_speech(choice, read)
                if self.said is not None:
                    self.said.append(_answer(choice))
                if isinstance(reason := choice.get("finish_reason"), str):
                    self.finish_reason = reason
        if usage := document.get("usage"):
            self.usage = _mapping(usage) or self.usage
        if metrics := document.get("metrics"):
            self.metrics = _mapping(metrics) or self.metrics
        if timings := document.get("timings"):
            self.timings = _mapping(timings) or self.timings

    def _take_speech(self, choice: dict[str, Any], read: int) -> None:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            self.spoken(read, answers=bool(choice.get("text")))
        elif self.answered and delta.get("content"):
            self.content.append(read)
        else:
            answers, reasons = (any(map(delta.get, names)) for names in (_ANSWER, _REASONING))
            self.spoken(read, answers=answers, reasons=reasons)

    def facts(self, outcome: str, error: str | None, status: int | None) -> Facts:
        """What it all came to."""
        prompt = count(self.usage.get("prompt_tokens"))
        output = count(self.usage.get("completion_tokens"))
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
            answer=self.answer,
        )


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
    said = choice["delta"] if isinstance(choice.get("delta"), dict) else choice
    texts = [(k, said[k]) for k in ("text", "content", *_REASONING) if said.get(k)]
    if len(texts) != 1 or not isinstance(texts[0][1], str):
        return None
    key, text = texts[0]
    for named in (f'"{key}":'.encode(), f'"{key}": '.encode()):
        before, found, after = data.partition(named + orjson.dumps(text))
        if found:
            return before + named + b'"', b'"' + after
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


def _answer(choice: dict[str, Any]) -> str:
    """The text of a choice that answers: no reasoning, no tool call."""
    part = _mapping(choice.get("delta")) or _mapping(choice.get("message"))
    text = part.get("content", choice.get("text"))
    return text if isinstance(text, str) else ""


def _server_facts(reading: Reading) -> ServerFacts | None:
    """What vLLM's `metrics` or llama-server's `timings` and usage say, in seconds and tokens."""
    metrics, timings = reading.metrics, reading.timings
    if not (metrics or timings or reading.usage.get("prompt_tokens_details")):
        return None
    queue, ttft = (_seconds(metrics.get(k)) for k in ("queue_time_ms", "time_to_first_token_ms"))
    prefill = _seconds(timings.get("prompt_ms"))
    if ttft is not None and queue is not None:
        prefill = max(ttft - queue, 0.0)
    decode = _seconds(metrics.get("generation_time_ms"))
    cached = count(_mapping(reading.usage.get("prompt_tokens_details")).get("cached_tokens"))
    facts = ServerFacts(
        queue=queue,
        prefill=prefill,
        decode=_seconds(timings.get("predicted_ms")) if decode is None else decode,
        cached_prompt_tokens=count(timings.get("cache_n")) if cached is None else cached,
    )
    return None if facts == ServerFacts() else facts


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int | None:
    """A count as a server gives it; None for anything else."""
    return value if type(value) is int and value >= 0 else None


def _seconds(milliseconds: Any) -> float | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    return milliseconds / 1e3 if isfinite(milliseconds) and milliseconds >= 0 else None
