"""llama.cpp's llama-server: its native `/completion` and its OpenAI routes, `timings` on both.

It announces keep-alive, and closes the connection after every stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loadgen.fakes.http import Call
from loadgen.fakes.openai import DONE, OpenAI, finish, is_chat, prompt_of
from loadgen.fakes.paces import Pace, Stepped
from loadgen.fakes.protocol import DEFAULT_TOKENS, Ask, Job, Reply, event, reply
from loadgen.fakes.timings import timings

NATIVE = "/completion"
_ERASE = re.compile(r"/slots/(\d+)\?action=erase")
REFUSED = {
    "busy": (503, "Loading model", "unavailable_error"),
    "rate_limit": (429, "Too many requests", "rate_limit_error"),
    "internal": (500, "The engine failed", "server_error"),
}


class LlamaServer(OpenAI):
    """One model, whatever name is asked for; `context` in tokens per slot."""

    name = "llama-server"
    stream_kind = "text/event-stream"
    headers: Mapping[str, str] = {"Server": "llama.cpp", "Keep-Alive": "timeout=5, max=100"}
    closes_after_stream = True
    any_model = True

    def __init__(
        self, models: Sequence[str], *, context: int = 4096, stop_after: int | None = None
    ) -> None:
        super().__init__(models, stop_after=stop_after)
        self.slot_context = context

    def generates(self, call: Call) -> bool:
        return super().generates(call) or (call.method, call.path) == ("POST", NATIVE)

    def page(self, call: Call, pace: Pace) -> Reply | None:
        if call.method == "POST" and (slot := _ERASE.fullmatch(call.path)):
            return self._erase(int(slot[1]), pace)
        pages: dict[str, Callable[[], Any]] = {
            "/health": lambda: {"status": "ok"},
            "/props": lambda: self._props(pace),
            "/slots": lambda: self._slots(pace),
            "/v1/models": lambda: {"object": "list", "data": [self.card(self.models[0])]},
        }
        found = pages.get(call.path) if call.method == "GET" else None
        return None if found is None else reply(200, found())

    def card(self, model: str) -> dict[str, Any]:
        return {**super().card(model), "owned_by": "llamacpp", "meta": {"n_ctx": self.slot_context}}

    def ask(self, call: Call, pace: Pace) -> Ask | Reply:
        try:
            document = json.loads(call.body)
        except ValueError as fault:
            return _refused(500, f"parse error: {fault}", "server_error")
        native = call.path == NATIVE
        asked = self._native(document) if native else super().ask(call, pace)
        if isinstance(asked, Reply):
            return asked
        length = len(asked.prompt) + 1
        if length >= self.slot_context:
            text = f"request ({length} tokens) exceeds the available context size"
            more = {"n_prompt_tokens": length, "n_ctx": self.slot_context}
            said = f"{text} ({self.slot_context} tokens), try increasing it"
            return _refused(400, said, "exceed_context_size_error", **more)
        reuse = bool(document.get("cache_prompt", True))
        return replace(asked, prompt=["<s>", *asked.prompt], reuse=reuse)

    def opening(self, job: Job) -> bytes:
        if not is_chat(job):
            return b""
        delta = {"role": "assistant", "content": None}
        return event(self.body(job, [{"index": 0, "delta": delta, "finish_reason": None}]))

    def tokens(self, job: Job, start: int, stop: int) -> list[bytes]:
        numbers = [number for number in range(start, stop) if job.text(number)]
        if job.ask.route == NATIVE:
            return [event(self._piece(job, number)) for number in numbers]
        return [event(self.body(job, [self.piece(job, n, n + 1, None)])) for n in numbers]

    def ending(self, job: Job, start: int) -> list[bytes]:
        parts = self.tokens(job, start, job.ask.output)
        if job.ask.route == NATIVE:
            return parts if job.failure in ("no_finish", "no_done") else [*parts, self._stop(job)]
        if job.ends:
            parts += self._finish(job)
        return parts if job.failure == "no_done" else [*parts, DONE]

    def whole(self, job: Job) -> Reply:
        if job.ask.route == NATIVE:
            return reply(200, self._said(job, job.texts()))
        said = [self.all_of(job)]
        return reply(200, self.body(job, said, usage=self.totals(job), **self.extra(job)))

    def totals(self, job: Job) -> dict[str, Any]:
        cached = {"cached_tokens": job.visit.cached_tokens}
        return {**super().totals(job), "prompt_tokens_details": cached}

    def extra(self, job: Job) -> dict[str, Any]:
        return {"timings": timings(job.visit).document()}

    def died(self) -> list[bytes]:
        return [event(_error(*REFUSED["internal"]))]

    def refusal(self, why: str, ask: Ask) -> Reply:  # noqa: ARG002 - the seam's
        return _refused(*REFUSED[why])

    def _native(self, document: Mapping[str, Any]) -> Ask | Reply:
        try:
            prompt, given = prompt_of(document), int(document.get("n_predict", -1))
        except (TypeError, KeyError, AttributeError, ValueError) as fault:
            return _refused(400, f"the request is not understood: {fault!r}", "invalid_request")
        stop = None if document.get("ignore_eos") else self.stop_after
        tokens = given if given > 0 else self.slot_context
        natural = stop or (tokens if given > 0 else min(tokens, DEFAULT_TOKENS))
        return Ask(
            model=self.models[0],
            prompt=prompt,
            tokens=tokens,
            output=min(tokens, natural),
            route=NATIVE,
            stream=bool(document.get("stream")),
        )

    def _piece(self, job: Job, number: int) -> dict[str, Any]:
        return {
            "index": 0,
            "content": job.text(number),
            "tokens": [job.token(number)],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": number + 1,
            "tokens_evaluated": job.visit.prompt_tokens,
        }

    def _stop(self, job: Job) -> bytes:
        return event(self._said(job, ""))

    def _said(self, job: Job, text: str) -> dict[str, Any]:
        visit = job.visit
        return {
            "index": 0,
            "content": text,
            "tokens": [],
            "id_slot": 0,
            "stop": True,
            "model": job.ask.model,
            "tokens_predicted": visit.output_tokens,
            "tokens_evaluated": visit.prompt_tokens,
            "generation_settings": {"n_predict": job.ask.tokens, "stream": job.ask.stream},
            "truncated": False,
            "stop_type": "eos" if job.stopped else "limit",
            "stopping_word": "",
            "tokens_cached": visit.prompt_tokens + visit.output_tokens - 1,
            **self.extra(job),
        }

    def _finish(self, job: Job) -> list[bytes]:
        """Usage stands on the last chunk of a completion, in a chunk of its own after a chat."""
        end = {"index": 0, "finish_reason": finish(job)}
        usage, extra = {"usage": self.totals(job)}, self.extra(job)
        if not is_chat(job):
            said = {**end, "text": "", "logprobs": None}
            return [event(self.body(job, [said], **usage, **extra))]
        last: dict[str, Any] = {**end, "delta": {}}
        if not job.ask.options["usage"]:
            return [event(self.body(job, [last], **extra))]
        return [event(self.body(job, [last])), event(self.body(job, [], **usage, **extra))]

    def _props(self, pace: Pace) -> dict[str, Any]:
        stepped = pace if isinstance(pace, Stepped) else None
        asleep = stepped is not None and stepped.steps.resident(stepped.now()) is None
        return {
            "default_generation_settings": {"params": {}, "n_ctx": self.slot_context},
            "total_slots": 1 if stepped is None else stepped.steps.model.slots,
            "model_alias": self.models[0],
            "model_path": f"models/{self.models[0]}.gguf",
            "build_info": "fake-1",
            "is_sleeping": asleep,
        }

    def _erase(self, slot: int, pace: Pace) -> Reply:
        """Its one cache stands for those of all slots."""
        erased = pace.steps.cache.clear() if isinstance(pace, Stepped) else 0
        return reply(200, {"id_slot": slot, "n_erased": erased})

    def _slots(self, pace: Pace) -> list[dict[str, Any]]:
        steps = pace.steps if isinstance(pace, Stepped) else None
        count, busy = (1, 0) if steps is None else (steps.model.slots, len(steps.batch))
        return [
            {"id": i, "n_ctx": self.slot_context, "is_processing": i < busy} for i in range(count)
        ]


def _error(code: int, text: str, kind: str, **more: int) -> dict[str, Any]:
    return {"error": {"code": code, "message": text, "type": kind, **more}}


def _refused(code: int, text: str, kind: str, **more: int) -> Reply:
    return reply(code, _error(code, text, kind, **more))
