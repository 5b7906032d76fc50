"""Ollama's own protocol: newline-delimited JSON, counters in nanoseconds, zeros left out.

Pure but for the times of day it prints.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from contract.errors import BackendError
from loadgen.fakes.http import Call
from loadgen.fakes.openai import words
from loadgen.fakes.paces import Pace, Stepped
from loadgen.fakes.protocol import DEFAULT_TOKENS, Ask, Front, Job, Reply, compact, reply
from loadgen.fakes.timings import timings, without_zeros

KEEP_ALIVE = 300.0  # seconds, Ollama's default
RUNNER_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_BUSY = "server busy, please try again.  maximum pending requests exceeded"
REFUSED = {
    "busy": (503, _BUSY),
    "rate_limit": (429, "too many requests"),
    "internal": (500, "llama runner process has terminated"),
}
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "271.0K",
    "quantization_level": "F16",
}
SIZE = 541_952  # bytes of the weights it pretends to hold


class Ollama(Front):
    """`/api/generate`, `/api/chat` and the pages around them; one model loaded at a time."""

    name = "ollama"
    reasons = True
    stream_kind = "application/x-ndjson"
    head_first = False
    bounded_while_loading_only = True

    def __init__(
        self, models: Sequence[str], *, context: int = 4096, stop_after: int | None = None
    ) -> None:
        self.models = tuple(map(_tagged, models))
        self.context = context
        self.stop_after = stop_after
        self.runner = self._runner(self.models[0], {})

    def generates(self, call: Call) -> bool:
        return call.method == "POST" and call.path in ("/api/generate", "/api/chat")

    def page(self, call: Call, pace: Pace) -> Reply | None:
        if (call.method, call.path) == ("POST", "/api/show"):
            return self._show(call.body)
        if call.method not in ("GET", "HEAD"):
            return None
        pages: dict[str, Any] = {"/api/version": {"version": "0.0.0-fake"}}
        if call.path == "/":
            found = Reply(200, b"Ollama is running", "text/plain; charset=utf-8")
        elif call.path == "/api/tags":
            found = reply(200, {"models": [self._tag(model) for model in self.models]})
        elif call.path == "/api/ps":
            found = reply(200, {"models": self._loaded(pace)})
        elif call.path in pages:
            found = reply(200, pages[call.path])
        else:
            return None
        return found if call.method == "GET" else Reply(200, b"", found.kind)

    def ask(self, call: Call, pace: Pace) -> Ask | Reply:
        try:
            return self._understood(json.loads(call.body), call.path, pace)
        except BackendError as refused:
            code = 404 if "not found" in refused.detail else 400
            return reply(code, {"error": refused.detail})
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            return reply(400, {"error": f"invalid request: {fault!r}"})

    def tokens(self, job: Job, start: int, stop: int) -> list[bytes]:
        numbers = (number for number in range(start, stop) if job.text(number))
        return [self._line(job, number) for number in numbers]

    def ending(self, job: Job, start: int) -> list[bytes]:
        parts = self.tokens(job, start, job.ask.output)
        if job.failure in ("no_finish", "no_done"):
            return parts
        return [*parts, compact(self._final(job, "")) + b"\n"]

    def whole(self, job: Job) -> Reply:
        if job.ask.output == 0:
            said = self._object(job.ask.model, job.ask.route, "", done=True, done_reason="load")
            return reply(200, said)
        place = self._thinks(job)
        return reply(200, self._final(job, job.texts(place), job.texts(0, place)))

    def died(self) -> list[bytes]:
        return [compact({"error": REFUSED["internal"][1]}) + b"\n"]

    def garbage(self) -> list[bytes]:
        return [b"{not json\n"]

    def refusal(self, why: str, ask: Ask) -> Reply:  # noqa: ARG002 - the seam's
        code, text = REFUSED[why]
        return reply(code, {"error": text})

    def _understood(self, document: Mapping[str, Any], path: str, pace: Pace) -> Ask | Reply:
        model = _tagged(document["model"])
        if model not in self.models:
            raise BackendError("rejected", f"model '{document['model']}' not found")
        options = document.get("options") or {}
        keep_alive = seconds(document.get("keep_alive"))
        said = _said(document, path)
        if not said and keep_alive == 0:
            if isinstance(pace, Stepped) and pace.steps.resident(pace.now()):
                pace.steps.unload()
            given = document["model"]
            return reply(200, self._object(given, path, "", done=True, done_reason="unload"))
        limit = self._limit(options)
        return Ask(
            model=document["model"],
            prompt=self._prompt(said, document, options) if said else [],
            tokens=limit if said else 0,
            output=min(limit, self._natural(options)) if said else 0,
            route=path,
            stream=bool(document.get("stream", True) and said),
            runner=self._runner(model, options),
            keep_alive=keep_alive,
        )

    def _context(self, options: Mapping[str, Any]) -> int:
        """Tokens of context; never below 4."""
        return max(4, int(options.get("num_ctx", self.context)))

    def _limit(self, options: Mapping[str, Any]) -> int:
        """The most tokens it may make: 10 contexts when left open."""
        most, given = 10 * self._context(options), int(options.get("num_predict", -1))
        return min(given, most) if given > 0 else most

    def _natural(self, options: Mapping[str, Any]) -> int:
        """After how many tokens the model stops by itself."""
        if self.stop_after is not None:
            return self.stop_after
        limit = self._limit(options)
        return limit if int(options.get("num_predict", -1)) > 0 else min(limit, DEFAULT_TOKENS)

    def _prompt(
        self, said: list[str], document: Mapping[str, Any], options: Mapping[str, Any]
    ) -> list[str]:
        """Its tokens after BOS; what is too long loses its middle, silently, or is refused."""
        prompt, context = ["<s>", *said], self._context(options)
        if len(prompt) <= context:
            return prompt
        if not (document.get("truncate", True) and document.get("shift", True)):
            raise BackendError("rejected", "the input length exceeds the context length")
        keep = min(int(options.get("num_keep", 4)) + 1, context - 1)
        length = context - (context - keep) // 2
        return prompt[:keep] + prompt[len(prompt) - (length - keep) :]

    def _runner(self, model: str, options: Mapping[str, Any]) -> str:
        """What has to be loaded: the model, and the options that only loading can change."""
        given = {name: options[name] for name in RUNNER_OPTIONS if name in options}
        return json.dumps([model, self._context(options), given])

    def _thinks(self, job: Job) -> int:
        return self.reasoning if job.ask.route == "/api/chat" else 0

    def _object(
        self, model: str, path: str, text: str, thinking: str = "", **more: Any
    ) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        message = {"role": "assistant", "content": text, **thought}
        said = {"message": message} if path == "/api/chat" else {"response": text}
        return {"model": model, "created_at": _rfc3339(time.time()), **said, **more}

    def _line(self, job: Job, number: int) -> bytes:
        text = job.text(number)
        said = ("", text) if number < self._thinks(job) else (text, "")
        return compact(self._object(job.ask.model, job.ask.route, *said, done=False)) + b"\n"

    def _final(self, job: Job, text: str, thinking: str = "") -> dict[str, Any]:
        visit, ask = job.visit, job.ask
        total = (visit.last or visit.arrival) - visit.arrival
        load = (visit.loaded or visit.arrival) - visit.arrival
        durations = without_zeros(
            total_duration=round(1e9 * total), load_duration=round(1e9 * load)
        )
        reason = "stop" if job.stopped else "length"
        context = {} if ask.route == "/api/chat" else {"context": self._ids(job)}
        said = self._object(
            ask.model, ask.route, text, thinking, done=True, done_reason=reason, **context
        )
        return {**said, **durations, **timings(visit).ollama_counters()}

    def _ids(self, job: Job) -> list[int]:
        made = [job.token(number) for number in range(job.ask.output)]
        return [*range(1, len(job.ask.prompt) + 1), *made]

    def _tag(self, model: str) -> dict[str, Any]:
        return {
            "name": model,
            "model": model,
            "modified_at": "2026-01-01T00:00:00Z",
            "size": SIZE,
            "digest": "0" * 64,
            "details": DETAILS,
        }

    def _loaded(self, pace: Pace) -> list[dict[str, Any]]:
        now = pace.now() if isinstance(pace, Stepped) else 0.0
        runner = pace.steps.resident(now) if isinstance(pace, Stepped) else None
        if runner is None or not isinstance(pace, Stepped):
            return []
        model, context, _ = json.loads(runner)
        left = None if pace.steps.expires is None else pace.steps.expires - now
        until = "2318-01-01T00:00:00Z" if left is None else _rfc3339(time.time() + left)
        tag = {k: v for k, v in self._tag(model).items() if k != "modified_at"}
        return [{**tag, "expires_at": until, "size_vram": 0, "context_length": context}]

    def _show(self, body: bytes) -> Reply:
        try:
            document = json.loads(body)
            given = document.get("model") or document["name"]
            model = _tagged(given)
        except (ValueError, TypeError, KeyError, AttributeError):
            return reply(400, {"error": "invalid request"})
        if model not in self.models:
            return reply(404, {"error": f"model '{given}' not found"})
        facts = {
            "general.architecture": "llama",
            "general.parameter_count": SIZE // 2,
            "llama.context_length": self.context,
        }
        return reply(
            200,
            {
                "modelfile": f"FROM {model}",
                "template": "{{ .Prompt }}",
                "details": DETAILS,
                "model_info": facts,
                "capabilities": ["completion"],
                "modified_at": "2026-01-01T00:00:00Z",
            },
        )


def seconds(keep_alive: Any) -> float | None:
    """`keep_alive` in seconds, negative for ever; None where none is given.

    A number is in seconds, a string a Go duration. BackendError for anything else.
    """
    if keep_alive is None:
        return None
    if isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool):
        return float(keep_alive)
    text = str(keep_alive)
    digits = text.removeprefix("-")
    if digits == "0":
        return 0.0
    parts = _PART.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        raise BackendError("rejected", f'time: invalid duration "{text}"')
    whole = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -whole if text.startswith("-") else whole


def _said(document: Mapping[str, Any], path: str) -> list[str]:
    if path == "/api/chat":
        return [w for message in document.get("messages") or [] for w in words(message["content"])]
    return words(document.get("system") or "") + words(document.get("prompt") or "")


def _tagged(model: str) -> str:
    return model if ":" in model else f"{model}:latest"


def _rfc3339(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat().replace("+00:00", "Z")
