"""Reasoning told from answers, whatever the field is called and however long it is."""

import json

import pytest

from loadgen.backends.base import Request, WireResponse
from loadgen.backends.llama_server import LlamaServerOpenAiDialect
from loadgen.backends.ollama import OllamaDialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.wire import ServerBackend
from loadgen.wire.answer import Answer

SSE = "text/event-stream"


def event(document):
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def line(document):
    return json.dumps(document).encode() + b"\n"


def delta(**fields):
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


OPENAI_END = [
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}),
    b"data: [DONE]\n\n",
]
OLLAMA_END = [line({"message": {"role": "assistant", "content": ""}, "done": True,
                    "done_reason": "stop", "total_duration": 9, "eval_count": 9})]  # fmt: skip


def named(field, **empty):
    """How a server writes reasoning and an answer; some write the empty other beside."""
    return (
        lambda text: delta(**{**empty, field: text}),
        lambda text: delta(content=text, **({field: None} if empty else {})),
    )


def ollama(**said):
    return line({"message": {"role": "assistant", **said}, "done": False})


# dialect, content type, how reasoning and an answer are written, what ends it
SERVERS = {
    "vllm": (OpenAiDialect("vllm", "chat"), SSE, *named("reasoning"), OPENAI_END),
    "llama-server": (
        LlamaServerOpenAiDialect("chat"), SSE, *named("reasoning_content"), OPENAI_END,
    ),
    "both fields": (
        OpenAiDialect("openai", "chat"), SSE, *named("reasoning_content", content=None), OPENAI_END,
    ),
    "ollama": (
        OllamaDialect("chat"), "application/x-ndjson",
        lambda text: ollama(content="", thinking=text), lambda text: ollama(content=text),
        OLLAMA_END,
    ),
}  # fmt: skip
every = pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)


def stream(server, *kinds):
    """A response of one event per read: `r` reasons, `a` answers, `b` is nothing."""
    dialect, kind, reason, answer, end = server
    write = {"r": reason, "a": answer, "b": lambda _text: answer("")}
    reads = [write[k](f'w{place} "q"') for place, k in enumerate("".join(kinds))]
    return dialect, WireResponse(200, {"content-type": kind}, [*reads, *end])


@every
@pytest.mark.parametrize(
    ("kinds", "answer", "content"),
    [
        ("rrraaa", 3, [0, 1, 2, 3, 4, 5]),
        ("brra", 3, [1, 2, 3]),
        ("rrbba", 4, [0, 1, 4]),
        ("aaa", None, [0, 1, 2]),
        ("rrr", None, [0, 1, 2]),
        ("arra", None, [0, 1, 2, 3]),  # it answered before it reasoned
        ("", None, []),
    ],
)
def test_the_first_answer_is_told_where_reasoning_came_before(server, kinds, answer, content):
    dialect, response = stream(server, kinds)
    facts = dialect.read(response)
    assert (facts.outcome, facts.answer, list(facts.content)) == ("ok", answer, content)


@every
def test_the_text_is_the_answer_alone(server):
    dialect, response = stream(server, "rraa")
    assert dialect.text(response) == 'w2 "q"w3 "q"'


@every
@pytest.mark.parametrize("reasoned", [3, 90, 200])
def test_of_a_stream_too_long_to_keep_the_first_answer_is_found_as_well(server, reasoned):
    dialect, whole = stream(server, "r" * reasoned, "a" * 200)
    answer = Answer(kept_budget=8 * 1024)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {whole.headers['content-type']}\r\n"
    body = b"".join(whole.reads)
    answer.reads.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
    answer.look()
    for read in whole.reads:
        answer.reads.append(read)
        answer.look()
    response = answer.response()
    backend = ServerBackend(dialect, "http://127.0.0.1:1", "m")

    facts = backend.facts(Request("why", 9), response, None)

    assert sum(response.dropped.values()) > 100
    assert len(facts.content) == reasoned + 200
    assert facts.answer == 1 + reasoned  # the head was a read of its own
