"""llama.cpp's llama-server: its native `/completion`, and its OpenAI routes. Pure.

`prompt_ms` runs to the first sampled token, `predicted_ms` covers those after it. The server
reports no load; whether it slept is on its own page (`is_sleeping`).
"""

from __future__ import annotations

from typing import Any

import orjson

from contract.records import ServerFacts
from loadgen.backends.base import Request, WireRequest, WireResponse
from loadgen.backends.body import PLAIN, Body
from loadgen.backends.fields import MILLISECOND, count, mapping, seconds, words
from loadgen.backends.openai import OpenAiDialect, message
from loadgen.backends.streams import JSON_KINDS, SSE_KINDS, Reading, read, text_of
from loadgen.stopwatch import Facts

PATH = "/completion"
ENDPOINTS = ("native", "completions", "chat")
# Its stop types in the words of the records; an unknown one is kept as it is.
FINISH = {"limit": "length", "eos": "stop", "word": "stop"}


class LlamaServerDialect:
    """The native `/completion`, past the end token to the asked length unless told otherwise.

    `cache_prompt` false makes the slot evaluate the whole prompt; with it, even unique prompts
    share their first token with what the slot held before.
    """

    name = "llama-server"

    def __init__(self, cache_prompt: bool = False, body: Body = PLAIN) -> None:
        self._body = body
        self._fixed = {
            **body.sampled(repetition_penalty="repeat_penalty"),
            "stream": body.streaming,
            "ignore_eos": body.ignore_eos,
            "cache_prompt": cache_prompt,
        }
        self._kinds = SSE_KINDS if body.streaming else JSON_KINDS

    def render(self, request: Request, model: str) -> WireRequest:
        """The request's bytes; a server of one model answers whatever the name."""
        body = {
            "model": model,
            "prompt": request.prompt,
            "n_predict": request.output_tokens,
            "seed": request.seed,
            **self._fixed,
        }
        return WireRequest(PATH, orjson.dumps(self._body.said(body)))

    def read(self, response: WireResponse) -> Facts:
        """What the exchange came to; never raises, whatever bytes came."""
        return read(response, self._kinds, _take)

    def text(self, response: WireResponse) -> str | None:
        """What was answered."""
        return text_of(response, self._kinds, _take)


class LlamaServerOpenAiDialect(OpenAiDialect):
    """Its `/v1/completions` or `/v1/chat/completions`, with the prompt cache as it is wanted."""

    def __init__(self, endpoint: str, cache_prompt: bool = False, body: Body = PLAIN) -> None:
        super().__init__("llama-server", endpoint, body, cache_prompt=cache_prompt)


def _take(document: dict[str, Any], read: int, into: Reading) -> None:
    if document.get("error"):
        into.failure = "server_error", message(orjson.dumps(document))
        return
    if document.get("content"):
        into.content.append(read)
        into.said.append(words(document["content"]))
    if document.get("stop") is True:
        reason = document.get("stop_type")
        into.complete = True
        into.finish_reason = FINISH.get(reason, reason) if isinstance(reason, str) else None
        into.prompt_tokens = count(document.get("tokens_evaluated"))
        into.output_tokens = count(document.get("tokens_predicted"))
        into.server = _server_facts(mapping(document.get("timings")))
        if document.get("truncated") is True:
            into.note = "the server cut what did not fit its context"


def _server_facts(timings: Any) -> ServerFacts | None:
    facts = ServerFacts(
        prefill=seconds(timings.get("prompt_ms"), MILLISECOND),
        decode=seconds(timings.get("predicted_ms"), MILLISECOND),
        cached_prompt_tokens=count(timings.get("cache_n")),
    )
    return None if facts == ServerFacts() else facts
