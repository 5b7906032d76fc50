"""Streams of every protocol, built by hand as the servers' documentation and source give them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from loadgen.backends.base import Dialect, WireResponse
from loadgen.backends.body import PLAIN, Body
from loadgen.backends.llama_server import LlamaServerDialect, LlamaServerOpenAiDialect
from loadgen.backends.ollama import OllamaDialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.backends.tgi import TgiDialect

PROMPT_TOKENS = 11
WHOLE = Body(streaming=False)
WORDS = (" a", " é😀", ' "\\', " d")


def sse(document):
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def tight_sse(document):
    """As TGI before 2.1 writes it, after an idle comment."""
    return b": idle\n\ndata:" + json.dumps(document).encode() + b"\r\n\r\n"


def line(document):
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class Protocol:
    """How one protocol frames a stream of words, its end, and an error in its midst; and what it
    answers in one piece."""

    of: Callable[[Body], Dialect]
    kind: str  # content type
    frame: Callable[[dict], bytes]
    chunk: Callable[[str], dict]
    end: Callable[[str, int], list[dict]]  # finish reason, tokens generated
    failure: dict
    finish: tuple[str, str]  # how it says that the length, or the end token, was reached
    whole: Callable[[str, str, int], dict]  # text, finish reason, tokens generated
    refusal: bytes = b'{"error":"no such model"}'
    head: dict = field(default_factory=dict)  # what stands in the head of an answer in one piece

    @property
    def dialect(self):
        return self.of(PLAIN)

    def reads(self, words=WORDS, finish=0, tokens=None):
        """One read per object."""
        last = self.end(self.finish[finish], len(words) if tokens is None else tokens)
        return [self.frame(d) for d in [*map(self.chunk, words), *last]]

    def in_one_piece(self, tokens=4):
        """The body of an answer that is not streamed."""
        return json.dumps(self.whole("".join(WORDS), self.finish[0], tokens)).encode()

    def read_whole(self, reads, status=200, **more):
        headers = {"content-type": "application/json", **self.head}
        return self.of(WHOLE).read(WireResponse(status, headers, reads, **more))

    def read(self, reads, status=200, **more):
        return self.dialect.read(WireResponse(status, {"Content-Type": self.kind}, reads, **more))


def openai_end(empty):
    def end(reason, tokens):
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
        finish = {"index": 0, **empty, "finish_reason": reason}
        return [{"choices": [finish]}, {"choices": [], "usage": usage}]

    return end


def ollama_end(empty):
    def end(reason, tokens):
        counters = {
            "done_reason": reason,
            "total_duration": 500_000_000,
            "load_duration": 20_000_000,
            "prompt_eval_count": PROMPT_TOKENS,
            "prompt_eval_duration": 130_000_000,
            "eval_count": tokens,
            "eval_duration": 250_000_000,
        }
        return [{"model": "m", "created_at": "2026-11-20T10:00:00Z", **empty, "done": True}
                | {name: value for name, value in counters.items() if value}]  # fmt: skip

    return end


def openai_whole(choice):
    def whole(text, reason, tokens):
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
        return {"choices": [{"index": 0, **choice(text), "finish_reason": reason}], "usage": usage}

    return whole


def ollama_whole(said):
    """One object that is the last one of a stream, with all of the text in it."""
    return lambda text, reason, tokens: ollama_end(said(text))(reason, tokens)[0]


def tgi_whole(text, reason, tokens):
    details = {"finish_reason": reason, "generated_tokens": tokens, "seed": 0, "prefill": []}
    return {"generated_text": text, "details": details}


def tgi_chunk(word):
    token = {"id": 7, "text": word, "logprob": -0.5, "special": False}
    return {"index": 1, "token": token, "generated_text": None, "details": None}


def tgi_end(reason, tokens):
    details = {"finish_reason": reason, "generated_tokens": tokens, "seed": 0}
    last = {"id": 2, "text": "</s>", "logprob": -0.1, "special": True}
    return [{"index": 9, "token": last, "generated_text": "all",
             "details": details | {"input_length": PROMPT_TOKENS}}]  # fmt: skip


def llama_end(reason, tokens):
    timings = {"cache_n": 3, "prompt_n": 8, "prompt_ms": 130.0, "predicted_ms": 250.0}
    return [{"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": reason,
             "tokens_predicted": tokens, "tokens_evaluated": PROMPT_TOKENS, "truncated": False,
             "timings": timings}]  # fmt: skip


def completion(word):
    return {"choices": [{"index": 0, "text": word, "finish_reason": None}]}


def chat(word):
    return {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}


def text_choice(text):
    return {"text": text}


def message_choice(text):
    return {"message": {"role": "assistant", "content": text}}


OPENAI = {
    "kind": "text/event-stream; charset=utf-8",
    "frame": sse,
    "failure": {"error": {"message": "it died", "type": "InternalServerError", "code": 500}},
    "finish": ("length", "stop"),
}
OLLAMA = {
    "kind": "application/x-ndjson",
    "frame": line,
    "failure": {"error": "it died"},
    "finish": ("length", "stop"),
}
PROTOCOLS = {
    "openai completions": Protocol(
        lambda body: OpenAiDialect(body=body),
        chunk=completion, end=openai_end({"text": ""}), whole=openai_whole(text_choice), **OPENAI,
    ),
    "vllm chat": Protocol(
        lambda body: OpenAiDialect("vllm", "chat", body),
        chunk=chat, end=openai_end({"delta": {}}), whole=openai_whole(message_choice), **OPENAI,
    ),
    "tgi chat": Protocol(
        lambda body: OpenAiDialect("tgi", "chat", body),
        chunk=chat, end=openai_end({"delta": {}}), whole=openai_whole(message_choice), **OPENAI,
    ),
    "llama-server completions": Protocol(
        lambda body: LlamaServerOpenAiDialect("completions", body=body),
        chunk=completion, end=openai_end({"text": ""}), whole=openai_whole(text_choice), **OPENAI,
    ),
    "llama-server native": Protocol(
        lambda body: LlamaServerDialect(body=body),
        chunk=lambda word: {"index": 0, "content": word, "tokens": [7], "stop": False},
        end=llama_end, whole=lambda *said: llama_end(*said[1:])[0] | {"content": said[0]},
        **OPENAI | {"finish": ("limit", "eos")},
    ),
    "ollama generate": Protocol(
        lambda body: OllamaDialect(body=body),
        chunk=lambda word: {"model": "m", "response": word, "done": False},
        end=ollama_end({"response": ""}),
        whole=ollama_whole(lambda text: {"response": text}), **OLLAMA,
    ),
    "ollama chat": Protocol(
        lambda body: OllamaDialect("chat", body=body),
        chunk=lambda word: {"message": {"role": "assistant", "content": word}, "done": False},
        end=ollama_end({"message": {"role": "assistant", "content": ""}}),
        whole=ollama_whole(message_choice), **OLLAMA,
    ),
    "tgi": Protocol(
        TgiDialect, "text/event-stream", tight_sse, tgi_chunk, tgi_end,
        {"error": "Request failed during generation: it died", "error_type": "generation"},
        ("length", "eos_token"), tgi_whole,
        b'{"error":"no such model","error_type":"validation"}',
        {"X-Prompt-Tokens": str(PROMPT_TOKENS), "x-queue-time": "12"},
    ),
}  # fmt: skip
each = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
