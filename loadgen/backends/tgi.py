"""The protocol of Text Generation Inference: `POST /generate_stream`, one event per token. Pure.

Every error of a stream, overload included, is an event inside a 200: only parsing tells. There
is no `[DONE]`; the last event carries the whole text and the details.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from loadgen.backends.base import Request, WireRequest, WireResponse
from loadgen.backends.fields import count, mapping, text, words
from loadgen.backends.openai import excerpt
from loadgen.backends.streams import Alike, Reading, read_sse, sse_text
from loadgen.stopwatch import Facts

PATH = "/generate_stream"
_ALIKE = Alike(b'"special":false},"generated_text":null,"details":null}\n\n', b'"text":""')
# Its finish reasons in the words of the records; an unknown one is kept as it is.
FINISH = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
# Error types that refuse a request, by no fault of a server at work; all others are its errors.
REFUSALS = ("overloaded", "validation", "template_error", "tool_error")


class TgiDialect:
    """One server, one model: the model's name is not sent. Greedy, with details asked for.

    It cannot be made to ignore the end token, so a reply may be shorter than asked (finish
    reason `stop`). Reports no durations and no cached tokens on streams.
    """

    name = "tgi"

    def render(self, request: Request, model: str) -> WireRequest:  # noqa: ARG002 - the seam's
        """The request's bytes."""
        parameters = {
            "max_new_tokens": request.output_tokens,
            "do_sample": False,
            "seed": request.seed,
            "details": True,
        }
        return WireRequest(PATH, orjson.dumps({"inputs": request.prompt, "parameters": parameters}))

    def read(self, response: WireResponse) -> Facts:
        """What the exchange came to; never raises. A status is read by its error type."""
        facts = read_sse(response, _take, _ALIKE)
        failure = _stated(response) if (response.status or 200) >= 400 else None
        return replace(facts, outcome=failure) if failure else facts

    def text(self, response: WireResponse) -> str | None:
        """What was answered."""
        return sse_text(response, _take)


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


def _stated(response: WireResponse) -> str | None:
    """The outcome by the error type of a refused request's body (424 is a failed generation)."""
    try:
        kind = mapping(orjson.loads(b"".join(response.reads))).get("error_type")
    except orjson.JSONDecodeError:
        return None
    return _outcome(kind) if isinstance(kind, str) else None


def _outcome(kind: str) -> str:
    return "rejected" if kind in REFUSALS else "server_error"
