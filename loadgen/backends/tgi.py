"""The protocol of Text Generation Inference: `POST /generate_stream`, one event per token. Pure.

Every error of a stream, overload included, is an event inside a 200: only parsing tells. There
is no `[DONE]`; the last event carries the whole text and the details.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from contract.records import ServerFacts
from loadgen.backends.base import Request, WireRequest, WireResponse
from loadgen.backends.body import PLAIN, Body
from loadgen.backends.fields import MILLISECOND, count, mapping, text, words
from loadgen.backends.openai import excerpt
from loadgen.backends.streams import JSON_KINDS, SSE_KINDS, Alike, Reading, read, text_of
from loadgen.stopwatch import Facts

PATH, WHOLE_PATH = "/generate_stream", "/generate"
_ALIKE = Alike(b'"special":false},"generated_text":null,"details":null}\n\n', b'"text":""')
# Its finish reasons in the words of the records; an unknown one is kept as it is.
FINISH = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
# Error types that refuse a request, by no fault of a server at work; all others are its errors.
REFUSALS = ("overloaded", "validation", "template_error", "tool_error")


class TgiDialect:
    """One server, one model: the model's name is not sent. Details are asked for.

    It cannot be made to ignore the end token, so a reply may be shorter than asked (finish
    reason `stop`). Reports no durations and no cached tokens on streams.
    """

    name = "tgi"

    def __init__(self, body: Body = PLAIN) -> None:
        self._body = body
        sampling = body.sampled()
        hot = sampling.pop("temperature")  # it refuses one of 0, and a top_p of 1
        self._fixed: dict[str, Any] = {"do_sample": hot > 0, **sampling, "details": True}
        if hot > 0:
            self._fixed["temperature"] = hot
        if sampling.get("top_p") == 1:
            del self._fixed["top_p"]
        self._path = PATH if body.streaming else WHOLE_PATH
        self._kinds = SSE_KINDS if body.streaming else JSON_KINDS

    def render(self, request: Request, model: str) -> WireRequest:  # noqa: ARG002 - the seam's
        """The request's bytes."""
        parameters = {
            "max_new_tokens": request.output_tokens,
            "seed": request.seed,
            **self._fixed,
        }
        body = {"inputs": request.prompt, "parameters": parameters}
        return WireRequest(self._path, orjson.dumps(self._body.said(body)))

    def read(self, response: WireResponse) -> Facts:
        """What the exchange came to; never raises. A status is read by its error type."""
        facts = read(response, self._kinds, _take, _ALIKE)
        if not self._body.streaming:
            _head_said(response, facts)
        failure = _stated(response) if (response.status or 200) >= 400 else None
        return replace(facts, outcome=failure) if failure else facts

    def text(self, response: WireResponse) -> str | None:
        """What was answered."""
        return text_of(response, self._kinds, _take if self._body.streaming else _take_whole)


def _take(document: dict[str, Any], read: int, into: Reading) -> None:
    if said := document.get("error"):
        kind = text(document.get("error_type")) or "unknown"
        reason = text(said) or excerpt(orjson.dumps(said))
        into.failure = _outcome(kind), f"{kind}: {reason}"
        return
    token = mapping(document.get("token"))
    # A special token (the end token) is counted by the server, but is no text for anybody.
    if token.get("text") and not token.get("special"):
        into.content.append(read)
        into.said.append(words(token["text"]))
    details = mapping(document.get("details"))
    if details or document.get("generated_text") is not None:
        finish = details.get("finish_reason")
        into.finish_reason = FINISH.get(finish, finish) if isinstance(finish, str) else None
        into.complete = into.finish_reason is not None
        into.prompt_tokens = count(details.get("input_length"))
        into.output_tokens = count(details.get("generated_tokens"))


def _take_whole(document: dict[str, Any], read: int, into: Reading) -> None:
    """The same of an answer that was not streamed."""
    _take(document, read, into)
    into.said.append(words(document.get("generated_text")))


def _head_said(response: WireResponse, facts: Facts) -> None:
    """An answer that is not streamed says in its head what a stream says at its end, and more."""
    head = {name.lower(): value for name, value in response.headers.items()}
    facts.prompt_tokens = _whole_number(head.get("x-prompt-tokens"))
    facts.prompt_source = None if facts.prompt_tokens is None else "server"
    queue = _whole_number(head.get("x-queue-time"))
    if queue is not None:
        facts.server = ServerFacts(queue=queue / MILLISECOND)


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _stated(response: WireResponse) -> str | None:
    """The outcome by the error type of a refused request's body (424 is a failed generation)."""
    try:
        kind = mapping(orjson.loads(b"".join(response.reads))).get("error_type")
    except orjson.JSONDecodeError:
        return None
    return _outcome(kind) if isinstance(kind, str) else None


def _outcome(kind: str) -> str:
    return "rejected" if kind in REFUSALS else "server_error"
