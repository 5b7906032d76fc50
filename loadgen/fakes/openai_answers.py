"""What a scripted OpenAI-protocol server understands and answers: its bodies and events. Pure
but for `created`, which tells the time of day."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.fakes.script import Script
from loadgen.fakes.slots import Visit
from loadgen.words import WORDS

DEFAULT_TOKENS = 16
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the body of a request asks for."""

    model: str
    prompt: str
    tokens: int
    chat: bool
    stream: bool
    usage: bool


def asked(path: str, body: bytes, models: Sequence[str]) -> Asked | str:
    """What is asked for, or why it is refused."""
    try:
        document = json.loads(body)
        chat = path.endswith("/chat/completions")
        texts = [m["content"] for m in document["messages"]] if chat else [document["prompt"]]
        request = Asked(
            model=document["model"],
            prompt=" ".join(texts),
            tokens=int(document.get("max_tokens", DEFAULT_TOKENS)),
            chat=chat,
            stream=bool(document.get("stream")),
            usage=bool((document.get("stream_options") or {}).get("include_usage")),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"the request is not understood: {error!r}"
    if request.model not in models:
        return f"The model `{request.model}` does not exist."
    if request.tokens < 1:
        return f"max_tokens must be at least 1, got {request.tokens}."
    return request


def job(visit: Visit, request: Asked, script: Script) -> Job:
    """The generation that answers a request, by the script."""
    visit.prompt_tokens = len(request.prompt.split())
    size = script.tokens_per_chunk
    chunks = -(-request.tokens // size)
    first, last = script.service(visit.index, request.tokens)
    step = (last - first) / (chunks - 1) if chunks > 1 else 0.0
    return Job(
        visit=visit,
        chat=request.chat,
        stream=request.stream,
        usage=request.usage and script.usage,
        model=request.model,
        words=[WORDS[(visit.index + 7 * i) % len(WORDS)] for i in range(request.tokens)],
        chunk_words=size,
        leaves=[*(first + i * step for i in range(chunks - 1)), last],
        failure=script.failure(visit.index),
        counts=script.usage,
        metrics=script.metrics,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One generation: what was asked, and when its chunks leave (seconds after its start)."""

    visit: Visit
    chat: bool
    stream: bool
    usage: bool  # the stream ends with a usage event
    model: str
    words: list[str]
    chunk_words: int
    leaves: list[float]
    failure: str | None
    counts: bool = True
    metrics: bool = False

    @property
    def texts(self) -> list[str]:
        """The text of each chunk, words apart by a space before each."""
        size = self.chunk_words
        parts = [self.words[i : i + size] for i in range(0, len(self.words), size)]
        return ["".join(f" {word}" for word in part) for part in parts]

    def choice(self, text: str, finish: str | None) -> dict[str, Any]:
        """The one choice of a chunk or of a whole body."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta" if self.stream else "message": {"content": text}}
            if not self.stream:
                said["message"]["role"] = "assistant"
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish}

    def body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A chunk or a whole body around its choices."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": f"fake-{self.visit.index}",
            "object": f"{kind}.chunk" if self.chat and self.stream else kind,
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
            **more,
        }

    def totals(self) -> dict[str, int]:
        """The usage object."""
        prompt, output = self.visit.prompt_tokens, len(self.words)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }

    def stream_end(self, text: str, queue: float) -> list[bytes]:
        """The last token's event and all that follows it; `queue` in seconds."""
        parts = [self.token(text, None if self.failure == "no_finish" else "length")]
        if self.usage:
            more: dict[str, Any] = {"usage": self.totals()}
            if self.metrics:
                more["metrics"] = {
                    "queue_time_ms": 1e3 * queue,
                    "time_to_first_token_ms": 1e3 * (queue + self.leaves[0]),
                    "generation_time_ms": 1e3 * (self.leaves[-1] - self.leaves[0]),
                }
            parts.append(event(self.body([], **more)))
        return parts if self.failure == "no_done" else [*parts, DONE]

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        finish = None if self.failure == "no_finish" else "length"
        choices = [self.choice("".join(self.texts), finish)]
        return self.body(choices, usage=self.totals()) if self.counts else self.body(choices)

    def role(self) -> bytes:
        """The event that opens a chat stream; it holds no token."""
        delta = {"role": "assistant", "content": ""}
        return event(self.body([{"index": 0, "delta": delta}]))

    def token(self, text: str, finish: str | None = None) -> bytes:
        """The event of one chunk."""
        return event(self.body([self.choice(text, finish)]))


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def error(text: str, code: int = 400, kind: str = "BadRequestError") -> dict[str, Any]:
    """An error body."""
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}
