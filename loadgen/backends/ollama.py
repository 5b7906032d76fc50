"""Ollama's own protocol: `/api/generate` and `/api/chat`, newline-delimited JSON. Pure.

The last object carries the server's counters: whole numbers and nanoseconds, each left out when
it is zero. Its durations are split so that they add up to `total_duration`:

    load     load_duration, but only where it shows a load: LOAD_EVIDENCE or more
    prefill  prompt_eval_duration: prompt tokens newly evaluated, not those found in its cache
    decode   eval_duration
    queue    the rest: waiting for a slot, scheduling, tokenising

`load_duration` runs from the arrival of a request until a runner is handed out, so a warm model
shows some too (122 to 227 ms on a desktop): below LOAD_EVIDENCE it is scheduling.
"""

from __future__ import annotations

from typing import Any

import orjson

from contract.records import ServerFacts
from loadgen.backends.base import Request, WireRequest, WireResponse
from loadgen.backends.body import PLAIN, Body
from loadgen.backends.fields import NANOSECOND, count, mapping, seconds, text, words
from loadgen.backends.openai import excerpt, said
from loadgen.backends.streams import (
    JSON_KINDS,
    NDJSON_KINDS,
    Alike,
    Reading,
    known,
    read,
    text_of,
)
from loadgen.stopwatch import Facts

PATHS = {"generate": "/api/generate", "chat": "/api/chat"}
LOAD_EVIDENCE = 1.0  # seconds of load_duration from which a model was loaded for this request

_ALIKE = {
    "generate": Alike(b'","done":false}\n', b'"response":""'),
    "chat": Alike(b'"},"done":false}\n', b'"content":""'),
}
# Fields of an object, or of its message, that hold generated tokens, thinking apart.
_ANSWER = ("response", "content", "tool_calls")


class OllamaDialect:
    """`/api/generate` (raw: no template is put around the prompt) or `/api/chat`.

    Ollama cannot be made to ignore the end token, so a reply may be shorter than asked
    (finish reason `stop`). `truncate: false` makes it refuse a prompt over its context (400)
    instead of cutting it silently; versions that do not know the field still cut.
    """

    name = "ollama"

    def __init__(
        self,
        endpoint: str = "generate",
        keep_alive: str | float | None = None,
        num_ctx: int | None = None,
        body: Body = PLAIN,
    ) -> None:
        """`endpoint` is a key of PATHS, ConfigError otherwise; `keep_alive` as Ollama takes it:
        seconds, or a Go duration such as `10m`; None leaves either to the server."""
        self.endpoint = known("endpoint", endpoint, tuple(PATHS))
        self._body = body
        self._given: dict[str, Any] = {} if keep_alive is None else {"keep_alive": keep_alive}
        self._options: dict[str, Any] = body.sampled(repetition_penalty="repeat_penalty")
        # A changed num_ctx reloads the model, hence one value for a whole run.
        if num_ctx is not None:
            self._options["num_ctx"] = num_ctx
        self._kinds = NDJSON_KINDS if body.streaming else JSON_KINDS

    def render(self, request: Request, model: str) -> WireRequest:
        """The request's bytes: at most the asked number of tokens."""
        options = {
            "num_predict": request.output_tokens,
            "seed": request.seed,
            **self._options,
        }
        body: dict[str, Any] = {
            "model": model,
            "stream": self._body.streaming,
            "truncate": False,
            "options": options,
            **self._given,
        }
        if self.endpoint == "chat":
            body["messages"] = said(request)
        else:
            body |= {"prompt": request.prompt, "raw": True}
        return WireRequest(PATHS[self.endpoint], orjson.dumps(self._body.said(body)))

    def read(self, response: WireResponse) -> Facts:
        """What the exchange came to; never raises, whatever bytes came."""
        return read(response, self._kinds, _take, _ALIKE[self.endpoint])

    def text(self, response: WireResponse) -> str | None:
        """What was answered, its thinking left out."""
        return text_of(response, self._kinds, _take)


def _take(document: dict[str, Any], read: int, into: Reading) -> None:
    if reason := document.get("error"):
        into.failure = "server_error", text(reason) or excerpt(orjson.dumps(reason))
        return
    spoken = mapping(document.get("message")) or document
    answers = any(spoken.get(name) for name in _ANSWER)
    into.spoken(read, answers=answers, reasons=bool(spoken.get("thinking")))
    into.said.append(words(spoken.get("response", spoken.get("content"))))
    if document.get("done") is True:
        into.complete = True
        into.finish_reason = text(document.get("done_reason"))
        into.prompt_tokens = _counter(document, "prompt_eval_count")
        into.output_tokens = _counter(document, "eval_count")
        into.server = _split(document)


def _counter(document: dict[str, Any], name: str) -> int | None:
    """A counter left out is zero; one that is no count is unknown."""
    return count(document.get(name, 0))


def _split(document: dict[str, Any]) -> ServerFacts | None:
    """The durations in seconds; None without a total, which is never zero on a real server."""
    total = seconds(document.get("total_duration"), NANOSECOND)
    parts = [
        seconds(document.get(f"{name}_duration", 0), NANOSECOND)
        for name in ("load", "prompt_eval", "eval")
    ]
    if not total or None in parts:
        return None
    load, prefill, decode = (part or 0.0 for part in parts)
    loaded = load if load >= LOAD_EVIDENCE else None
    queue = max(0.0, total - prefill - decode - (loaded or 0.0))
    return ServerFacts(load=loaded, queue=queue, prefill=prefill, decode=decode)
