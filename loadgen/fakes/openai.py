"""The OpenAI protocol as vLLM speaks it: what is understood, and the bodies and events of answers.

Pure but for `created`, which tells the time of day.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from loadgen.fakes.http import Call
from loadgen.fakes.paces import Pace, Stepped
from loadgen.fakes.protocol import DEFAULT_TOKENS, Ask, Front, Job, Reply, event, reply

DONE = b"data: [DONE]\n\n"
ROUTES = {"/v1/completions": "text_completion", "/v1/chat/completions": "chat.completion"}
REFUSED = {
    "busy": (503, "The engine is busy.", "Service Unavailable"),
    "rate_limit": (429, "Too many requests.", "RateLimitError"),
    "internal": (500, "The engine failed.", "InternalServerError"),
}


class OpenAI(Front):
    """`/v1/completions`, `/v1/chat/completions`, `/v1/models`, `/health`, `/version`."""

    name = "openai"
    reasons = True
    thought = "reasoning_content"
    any_model = False  # whatever is named, the first one answers

    def __init__(
        self,
        models: Sequence[str] = ("tiny",),
        *,
        context: int | None = None,
        stop_after: int | None = None,
        usage: bool = True,
        metrics: bool = False,
        lists_models: bool = True,
    ) -> None:
        self.models = tuple(models)
        self.context = context
        self.stop_after = stop_after
        self._usage = usage
        self._metrics = metrics
        self._lists_models = lists_models

    def generates(self, call: Call) -> bool:
        return call.method == "POST" and call.path in ROUTES

    def page(self, call: Call, pace: Pace) -> Reply | None:  # noqa: ARG002 - the seam's
        if call.method != "GET":
            return None
        if call.path == "/v1/models" and self._lists_models:
            return reply(200, {"object": "list", "data": [self.card(m) for m in self.models]})
        known = {"/version": {"version": "fake-1"}, "/health": {}}
        return reply(200, known[call.path]) if call.path in known else None

    def card(self, model: str) -> dict[str, Any]:
        """The entry of one model in `/v1/models`."""
        card: dict[str, Any] = {"id": model, "object": "model", "owned_by": "fake"}
        return card if self.context is None else {**card, "max_model_len": self.context}

    def ask(self, call: Call, pace: Pace) -> Ask | Reply:  # noqa: ARG002 - the seam's
        try:
            document = json.loads(call.body)
            model = self.models[0] if self.any_model else document["model"]
            prompt = prompt_of(document)
            tokens = int(document.get("max_completion_tokens") or limit_of(document))
            streaming = document.get("stream_options") or {}
            options = {
                "usage": bool(streaming.get("include_usage")) and self._usage,
                "usage_everywhere": bool(streaming.get("continuous_usage_stats")) and self._usage,
            }
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            return refused(400, f"the request is not understood: {fault!r}")
        if model not in self.models:
            return refused(404, f"The model `{model}` does not exist.", "NotFoundError")
        if tokens < 1:
            return refused(400, f"max_tokens must be at least 1, got {tokens}.")
        if self.context is not None and len(prompt) + tokens > self.context:
            text = f"maximum context length is {self.context} tokens"
            return refused(400, f"The {text}, asked for {len(prompt)} + {tokens}.")
        stop = None if document.get("ignore_eos") else self.stop_after
        return Ask(
            model=model,
            prompt=prompt,
            tokens=tokens,
            output=min(tokens, stop or tokens),
            route=ROUTES[call.path],
            stream=bool(document.get("stream")),
            options=options,
        )

    def opening(self, job: Job) -> bytes:
        """A chat stream opens with its role; that event holds no token."""
        if not is_chat(job):
            return b""
        delta = {"role": "assistant", "content": ""}
        return event(self.body(job, [{"index": 0, "delta": delta}]))

    def tokens(self, job: Job, start: int, stop: int) -> list[bytes]:
        edges = [start, *(edge for edge in (self.thinks(job),) if start < edge < stop), stop]
        return [self._token(job, *span, None) for span in pairwise(edges)]

    def ending(self, job: Job, start: int) -> list[bytes]:
        output = job.ask.output
        last = self.thinks(job) if start < self.thinks(job) < output else start
        parts = self.tokens(job, start, last) if last > start else []
        parts.append(self._token(job, last, output, finish(job)))
        if job.ask.options["usage"]:
            parts.append(event(self.body(job, [], usage=self.totals(job), **self.extra(job))))
        return parts if job.failure == "no_done" else [*parts, DONE]

    def whole(self, job: Job) -> Reply:
        usage = {"usage": self.totals(job)} if self._usage else {}
        return reply(200, self.body(job, [self.all_of(job)], **usage))

    def thinks(self, job: Job) -> int:
        """How many tokens come before the answer."""
        return self.reasoning if is_chat(job) else 0

    def piece(self, job: Job, start: int, stop: int, end: str | None) -> dict[str, Any]:
        """The choice of a chunk with tokens [start, stop), all of them of one kind."""
        name = self.thought if start < self.thinks(job) else "content"
        said = {"delta": {name: job.texts(start, stop)}}
        if not is_chat(job):
            said = {"text": job.texts(start, stop)}  # type: ignore[dict-item]
        return {"index": 0, **said, "logprobs": None, "finish_reason": end}

    def all_of(self, job: Job) -> dict[str, Any]:
        """The choice of an answer in one piece."""
        place = self.thinks(job)
        said: dict[str, Any] = {"text": job.texts()}
        if is_chat(job):
            reasoning = {self.thought: job.texts(0, place)} if place else {}
            message = {"role": "assistant", "content": job.texts(place), **reasoning}
            said = {"message": message}
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish(job)}

    def died(self) -> list[bytes]:
        return [event(failure(500, "The engine died.", "InternalServerError")), DONE]

    def garbage(self) -> list[bytes]:
        return [*super().garbage(), DONE]

    def refusal(self, why: str, ask: Ask) -> Reply:  # noqa: ARG002 - the seam's
        code, text, kind = REFUSED[why]
        said = failure(code, text, kind)
        return reply(code, said, Retry_After="1") if why == "busy" else reply(code, said)

    def body(self, job: Job, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A chunk or a whole body around its choices."""
        chunk = ".chunk" if is_chat(job) and job.ask.stream else ""
        return {
            "id": f"fake-{job.visit.index}",
            "object": f"{job.ask.route}{chunk}",
            "created": int(time.time()),
            "model": job.ask.model,
            "choices": choices,
            **more,
        }

    def totals(self, job: Job) -> dict[str, Any]:
        """The usage object."""
        return totals(job, job.visit.output_tokens)

    def extra(self, job: Job) -> dict[str, Any]:
        """What stands beside the usage of a stream: vLLM's per-request metrics, if on."""
        visit = job.visit
        if not self._metrics or visit.start is None or visit.first is None or visit.last is None:
            return {}
        return {
            "metrics": {
                "queue_time_ms": 1e3 * (visit.start - visit.arrival),
                "time_to_first_token_ms": 1e3 * (visit.first - visit.arrival),
                "generation_time_ms": 1e3 * (visit.last - visit.first),
            }
        }

    def _token(self, job: Job, start: int, stop: int, end: str | None) -> bytes:
        said = self.piece(job, start, stop, end)
        if not job.ask.options["usage_everywhere"]:
            return event(self.body(job, [said]))
        return event(self.body(job, [said], usage=totals(job, stop)))


class VLLM(OpenAI):
    """The same with vLLM's own pages, sleep mode and cached counts among them."""

    name = "vllm"
    thought = "reasoning"

    def page(self, call: Call, pace: Pace) -> Reply | None:
        path = call.path.partition("?")[0]
        if path in ("/health", "/ping") and call.method == "GET":
            return Reply(200, b"")
        if isinstance(pace, Stepped) and (said := self._engine_page(call.method, path, pace)):
            return said
        return super().page(call, pace)

    def card(self, model: str) -> dict[str, Any]:
        return {**super().card(model), "root": model, "owned_by": "vllm"}

    def totals(self, job: Job) -> dict[str, Any]:
        cached = {"cached_tokens": job.visit.cached_tokens}
        return {**super().totals(job), "prompt_tokens_details": cached}

    def _engine_page(self, method: str, path: str, pace: Stepped) -> Reply | None:
        if (method, path) == ("GET", "/load"):
            return reply(200, {"server_load": pace.steps.in_system})
        if (method, path) == ("GET", "/is_sleeping"):
            return reply(200, {"is_sleeping": pace.steps.paused})
        actions = {
            "/sleep": pace.steps.pause,
            "/wake_up": pace.resume,
            "/reset_prefix_cache": pace.steps.cache.clear,
        }
        if method != "POST" or path not in actions:
            return None
        actions[path]()
        return Reply(200, b"")


def prompt_of(document: Mapping[str, Any]) -> list[str]:
    """The prompt's tokens: its words, or the ids it was given as."""
    if "messages" in document:
        return [word for message in document["messages"] for word in words(message["content"])]
    return words(document["prompt"])


def words(content: Any) -> list[str]:
    """Words of a text, of the text parts of a message, or of a list of token ids."""
    if isinstance(content, str):
        return content.split()
    parts = [part["text"] if isinstance(part, dict) else str(part) for part in content]
    return " ".join(parts).split()


def limit_of(document: Mapping[str, Any]) -> int:
    """The most tokens to make: `max_tokens`."""
    given = document.get("max_tokens")
    return DEFAULT_TOKENS if given is None else given


def is_chat(job: Job) -> bool:
    """Whether the answer is a message."""
    return job.ask.route == "chat.completion"


def finish(job: Job) -> str | None:
    """The finish reason."""
    if not job.ends:
        return None
    return "stop" if job.stopped else "length"


def totals(job: Job, output: int) -> dict[str, Any]:
    """The usage object after `output` tokens."""
    prompt = job.visit.prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }


def failure(code: int, text: str, kind: str = "BadRequestError") -> dict[str, Any]:
    """An error body."""
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def refused(code: int, text: str, kind: str = "BadRequestError") -> Reply:
    """A refusal."""
    return reply(code, failure(code, text, kind))
