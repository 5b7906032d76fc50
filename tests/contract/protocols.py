"""Streams of every protocol, built by hand as the servers' documentation and source give them."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from loadgen.backends.base import Dialect, WireResponse
from loadgen.backends.llama_server import LlamaServerDialect, LlamaServerOpenAiDialect
from loadgen.backends.ollama import OllamaDialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.backends.tgi import TgiDialect

PROMPT_TOKENS = 11
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
    """How one protocol frames a stream of words, its end, and an error in its midst."""

    dialect: Dialect
    kind: str  # content type
    frame: Callable[[dict], bytes]
    chunk: Callable[[str], dict]
    end: Callable[[str, int], list[dict]]  # finish reason, tokens generated
    failure: dict
    finish: tuple[str, str]  # how it says that the length, or the end token, was reached
    refusal: bytes = b'{"error":"no such model"}'

    def reads(self, words=WORDS, finish=0, tokens=None):
        """One read per object."""
        last = self.end(self.finish[finish], len(words) if tokens is None else tokens)
        return [self.frame(d) for d in [*map(self.chunk, words), *last]]

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
        OpenAiDialect(), chunk=completion, end=openai_end({"text": ""}), **OPENAI
    ),
    "vllm chat": Protocol(
        OpenAiDialect("vllm", "chat"), chunk=chat, end=openai_end({"delta": {}}), **OPENAI
    ),
    "llama-server completions": Protocol(
        LlamaServerOpenAiDialect("completions"),
        chunk=completion, end=openai_end({"text": ""}), **OPENAI,
    ),
    "llama-server native": Protocol(
        LlamaServerDialect(),
        chunk=lambda word: {"index": 0, "content": word, "tokens": [7], "stop": False},
        end=llama_end, **OPENAI | {"finish": ("limit", "eos")},
    ),
    "ollama generate": Protocol(
        OllamaDialect(),
        chunk=lambda word: {"model": "m", "response": word, "done": False},
        end=ollama_end({"response": ""}), **OLLAMA,
    ),
    "ollama chat": Protocol(
        OllamaDialect("chat"),
        chunk=lambda word: {"message": {"role": "assistant", "content": word}, "done": False},
        end=ollama_end({"message": {"role": "assistant", "content": ""}}), **OLLAMA,
    ),
    "tgi": Protocol(
        TgiDialect(), "text/event-stream", tight_sse, tgi_chunk, tgi_end,
        {"error": "Request failed during generation: it died", "error_type": "generation"},
        ("length", "eos_token"),
        b'{"error":"no such model","error_type":"validation"}',
    ),
}  # fmt: skip
each = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
