"""The protocol of Text Generation Inference: one event per token, errors inside 200s. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loadgen.fakes.http import Call
from loadgen.fakes.openai import ROUTES, OpenAI
from loadgen.fakes.paces import Pace, Stepped
from loadgen.fakes.protocol import SSE, Ask, Front, Job, Reply, event, reply
from loadgen.fakes.slots import Visit

REFUSED = {
    "busy": (429, "Model is overloaded", "overloaded"),
    "rate_limit": (429, "Model is overloaded", "overloaded"),
    "internal": (424, "Request failed during generation: the engine failed", "generation"),
}
END = "</s>"


class _OneModel(OpenAI):
    """Its `/v1` routes, which answer whatever model is named."""

    any_model = True


class Tgi(Front):
    """`/generate_stream`, `/generate`, `/` for both, and the pages around them; one model."""

    name = "tgi"
    stream_kind = "text/event-stream"

    def __init__(
        self, model: str = "tiny", *, context: int = 4096, stop_after: int | None = None
    ) -> None:
        self.model = model
        self.context = context
        self.stop_after = stop_after
        self._openai = _OneModel((model,), context=context, stop_after=stop_after)

    def generates(self, call: Call) -> bool:
        own = ("/", "/generate", "/generate_stream")
        return call.method == "POST" and (call.path in own or call.path in ROUTES)

    def page(self, call: Call, pace: Pace) -> Reply | None:
        if call.method != "GET":
            return None
        if call.path in ("/", "/ping", "/health"):
            return Reply(200, b"", "text/plain")
        if call.path == "/info":
            return reply(200, self._info(pace))
        return self._openai.page(call, pace) if call.path == "/v1/models" else None

    def ask(self, call: Call, pace: Pace) -> Ask | Reply:
        if call.path in ROUTES:
            return self._openai.ask(call, pace)
        try:
            return self._understood(json.loads(call.body), call.path)
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            text = f"Failed to deserialize the JSON body: {fault!r}"
            return Reply(422, text.encode(), "text/plain; charset=utf-8")

    def stream_headers(self, job: Job) -> Mapping[str, str]:
        if job.ask.route in ROUTES.values():
            return {}
        return {"x-compute-type": "cpu", "x-accel-buffering": "no", **_characters(job)}

    def opening(self, job: Job) -> bytes:
        return self._openai.opening(job)

    def tokens(self, job: Job, start: int, stop: int) -> list[bytes]:
        if job.ask.route in ROUTES.values():
            return self._openai.tokens(job, start, stop)
        return [event(self._token(job, number)) for number in range(start, stop)]

    def ending(self, job: Job, start: int) -> list[bytes]:
        if job.ask.route in ROUTES.values():
            return self._openai.ending(job, start)
        last = self._token(job, job.ask.output - 1)
        if job.failure not in ("no_finish", "no_done"):
            last["generated_text"] = self._text(job)
            last["details"] = self._details(job, input_length=job.visit.prompt_tokens)
        return [*self.tokens(job, start, job.ask.output - 1), event(last)]

    def whole(self, job: Job) -> Reply:
        if job.ask.route in ROUTES.values():
            return self._openai.whole(job)
        tokens = [self._plain(job, number) for number in range(job.ask.output)]
        said: dict[str, Any] = {"generated_text": self._text(job)}
        said["details"] = self._details(job, prefill=[], tokens=tokens)
        headers = {"x-compute-type": "cpu", **_characters(job), **_durations(job.visit)}
        document = [said] if job.ask.route == "/" else said
        return Reply(200, json.dumps(document).encode(), headers=headers)

    def died(self) -> list[bytes]:
        _, text, kind = REFUSED["internal"]
        return [event({"error": text, "error_type": kind})]

    def refusal(self, why: str, ask: Ask) -> Reply:
        if ask.route in ROUTES.values():
            return self._openai.refusal(why, ask)
        return _refused(*REFUSED[why], stream=ask.stream)

    def _understood(self, document: Mapping[str, Any], path: str) -> Ask | Reply:
        stream = path == "/generate_stream" or (path == "/" and bool(document.get("stream")))
        given = document.get("parameters") or {}
        prompt = document["inputs"].split()
        if given.get("truncate"):
            prompt = prompt[-int(given["truncate"]) :]
        most = self.context - len(prompt)
        wanted = given.get("max_new_tokens")
        tokens = most if wanted is None else int(wanted)
        if why := self._invalid(given, len(prompt), tokens, stream=stream):
            text = f"Input validation error: {why}"
            return _refused(422, text, "validation", stream=stream)
        details = given.get("details")
        return Ask(
            model=self.model,
            prompt=prompt,
            tokens=tokens,
            output=min(tokens, self.stop_after or tokens),
            route=path,
            stream=stream,
            options={
                "details": True if details is None else bool(details),
                "full": document["inputs"] if given.get("return_full_text") else "",
                "seed": given.get("seed"),
            },
        )

    def _invalid(
        self, given: Mapping[str, Any], prompt: int, tokens: int, *, stream: bool
    ) -> str | None:
        """Why it is refused, in the server's words."""
        if prompt < 1:
            return "`inputs` cannot be empty"
        if tokens < 1:
            return "`max_new_tokens` must be strictly positive"
        if prompt + tokens > self.context:
            return (
                f"`inputs` tokens + `max_new_tokens` must be <= {self.context}. "
                f"Given: {prompt} `inputs` tokens and {tokens} `max_new_tokens`"
            )
        if stream and (given.get("best_of") or 1) != 1:
            return "`best_of` != 1 is not allowed when streaming tokens"
        if stream and given.get("decoder_input_details"):
            return "`decoder_input_details` == true is not supported when streaming tokens"
        return None

    def _plain(self, job: Job, number: int) -> dict[str, Any]:
        end = job.stopped and number == job.ask.output - 1
        text = END if end else job.text(number)
        return {"id": job.token(number), "text": text, "logprob": 0.0, "special": end}

    def _token(self, job: Job, number: int) -> dict[str, Any]:
        return {
            "index": number + 1,
            "token": self._plain(job, number),
            "generated_text": None,
            "details": None,
        }

    def _text(self, job: Job) -> str:
        return f"{job.ask.options['full']}{job.texts()}"

    def _details(self, job: Job, **more: Any) -> dict[str, Any] | None:
        if not job.ask.options["details"]:
            return None
        return {
            "finish_reason": "eos_token" if job.stopped else "length",
            "generated_tokens": job.ask.output,
            "seed": job.ask.options["seed"],
            **more,
        }

    def _info(self, pace: Pace) -> dict[str, Any]:
        model = pace.steps.model if isinstance(pace, Stepped) else None
        limit = None if model is None else model.queue_limit
        return {
            "model_id": self.model,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": 128 if model is None or limit is None else
            model.slots + limit,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": self.context - 1,
            "max_total_tokens": self.context,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": "fake-1",
            "sha": None,
            "docker_label": None,
        }  # fmt: skip


def _refused(code: int, text: str, kind: str, *, stream: bool) -> Reply:
    """A refusal; on a stream it is an event inside a 200."""
    document = {"error": text, "error_type": kind}
    return Reply(200, event(document), SSE) if stream else reply(code, document)


def _characters(job: Job) -> dict[str, str]:
    return {"x-compute-characters": str(sum(map(len, job.ask.prompt)))}


def _durations(visit: Visit) -> dict[str, str]:
    """Whole milliseconds, but for the seconds of `x-compute-time`."""
    start = visit.start or visit.arrival
    end = visit.last or start
    tokens = max(1, visit.output_tokens)
    spans = {
        "total-time": end - visit.arrival,
        "validation-time": 0.0,
        "queue-time": start - visit.arrival,
        "inference-time": end - start,
        "time-per-token": (end - start) / tokens,
    }
    return {
        "x-compute-time": str(end - visit.arrival),
        **{f"x-{name}": str(int(1e3 * span)) for name, span in spans.items()},
        "x-prompt-tokens": str(visit.prompt_tokens),
        "x-generated-tokens": str(visit.output_tokens),
    }
