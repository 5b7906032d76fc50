"""The OpenAI dialect: bytes rendered, and outcomes and counts read."""

import json

import pytest

from contract.errors import ConfigError
from contract.records import ServerFacts
from loadgen.backends.base import Request, WireResponse
from loadgen.backends.openai import OpenAiDialect

SSE = {"content-type": "text/event-stream; charset=utf-8"}
REQUEST = Request(prompt="bada bade", output_tokens=5, seed=7)


def text(word, finish=None):
    return {"choices": [{"index": 0, "text": word, "finish_reason": finish}]}


def delta(finish=None, **fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def usage(prompt, output, **more):
    counts = {"prompt_tokens": prompt, "completion_tokens": output}
    return {"choices": [], "usage": counts | more}


def read(*documents, done=True, **response):
    """The facts of a stream with one event per read."""
    reads = [b"data: " + json.dumps(d).encode() + b"\n\n" for d in documents]
    reads += [b"data: [DONE]\n\n"] if done else []
    return OpenAiDialect().read(WireResponse(200, SSE, reads, **response))


def answer(status, body=b"", headers=None):
    return OpenAiDialect().read(WireResponse(status, headers or {}, [body]))


def test_a_completion_is_streamed_greedy_and_counted():
    wire = OpenAiDialect().render(REQUEST, "tiny")

    assert wire.path == "/v1/completions"
    assert json.loads(wire.body) == {
        "model": "tiny",
        "prompt": "bada bade",
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_chat_carries_the_prompt_as_the_user():
    wire = OpenAiDialect(endpoint="chat").render(REQUEST, "tiny")

    assert wire.path == "/v1/chat/completions"
    body = json.loads(wire.body)
    assert body["messages"] == [{"role": "user", "content": "bada bade"}]
    assert "prompt" not in body


@pytest.mark.parametrize(
    ("flavour", "extras"),
    [
        ("openai", {}),
        ("vllm", {"ignore_eos": True, "min_tokens": 5}),
        ("llama-server", {"ignore_eos": True}),
    ],
)
def test_only_a_flavour_that_knows_them_gets_extra_fields(flavour, extras):
    body = json.loads(OpenAiDialect(flavour).render(REQUEST, "tiny").body)

    assert {k: v for k, v in body.items() if k in ("ignore_eos", "min_tokens")} == extras


def test_an_unknown_flavour_or_endpoint_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'vlm' is unknown, did you mean 'vllm'\?"):
        OpenAiDialect("vlm")
    with pytest.raises(ConfigError, match="allowed: completions, chat"):
        OpenAiDialect(endpoint="embeddings")


def test_a_complete_stream_is_ok_with_its_counts():
    facts = read(text(" a"), text(" b", "length"), usage(3, 2))

    assert facts.outcome == "ok"
    assert facts.finish_reason == "length"
    assert facts.content == [0, 1]
    assert (facts.prompt_tokens, facts.prompt_source) == (3, "server")
    assert (facts.output_tokens, facts.output_source) == (2, "server")
    assert facts.server is None


def test_a_role_an_empty_and_a_null_chunk_are_no_content():
    facts = read(
        delta(role="assistant", content=""),
        delta(role="assistant", content=None),
        delta(content=" a"),
        delta("stop"),
    )

    assert facts.content == [2]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    ],
)
def test_reasoning_and_tool_calls_are_tokens_too(fields):
    assert read(delta(content=None, **fields), delta("stop")).content == [0]


def test_the_last_usage_counts_wherever_it_comes():
    every = {**text(" a"), **usage(3, 1), "choices": text(" a")["choices"]}
    finish = {**text("", "length"), "usage": {"prompt_tokens": 3, "completion_tokens": 4}}

    assert read(every, finish).output_tokens == 4
    assert read(every, text("", "stop"), {"choices": [], "usage": None}).output_tokens == 1


def test_without_usage_nothing_is_counted():
    facts = read(text(" a", "length"))

    assert (facts.outcome, facts.output_tokens, facts.output_source) == ("ok", None, None)


@pytest.mark.parametrize("wrong", [-1, 2.5, "7", True, None])
def test_a_count_that_is_no_count_is_missing(wrong):
    assert read(text(" a", "length"), usage(wrong, 1)).prompt_tokens is None


def test_done_is_not_success():
    facts = read(text(" a"), done=True)

    assert facts.outcome == "truncated"
    assert facts.content == [0]


def test_success_needs_no_done():
    assert read(text(" a", "stop"), done=False).outcome == "ok"


def test_chunks_after_the_first_are_told_apart_by_more_than_their_text():
    more = [text(" b"), text(""), text('" c'), text(" d", "length"), usage(3, 4)]

    facts = read(text(" a"), *more)

    assert (facts.outcome, facts.content, facts.output_tokens) == ("ok", [0, 1, 3, 4], 4)


def test_an_error_event_after_chunks_alike_is_seen():
    facts = read(text(" a"), text(" b"), {"error": "died"})

    assert (facts.outcome, facts.error, facts.content) == ("server_error", "died", [0, 1])


def test_an_error_event_beats_a_finish_reason_and_done():
    facts = read(text(" a", "stop"), {"error": {"message": "engine died", "code": 500}})

    assert (facts.outcome, facts.error) == ("server_error", "engine died")
    assert facts.content == [0]


def test_an_event_named_error_is_an_error():
    body = b'event: error\ndata: {"message": "engine died"}\n\n'

    facts = OpenAiDialect().read(WireResponse(200, SSE, [body]))

    assert (facts.outcome, facts.error) == ("server_error", "engine died")


def test_an_aborted_generation_is_no_success():
    assert read(text(" a", "abort")).outcome == "server_error"


@pytest.mark.parametrize("broken", ["bad_stream", "timed_out"])
def test_a_broken_exchange_keeps_what_came(broken):
    facts = read(text(" a"), text(" b"), done=False, broken=broken, detail="why")

    assert (facts.outcome, facts.error, facts.content) == (broken, "why", [0, 1])


def test_an_event_that_is_not_json_is_no_protocol():
    facts = OpenAiDialect().read(WireResponse(200, SSE, [b"data: {oops\n\n"]))

    assert facts.outcome == "bad_stream"
    assert facts.error == "not a JSON object: {oops"


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8"])
def test_a_body_that_is_no_event_stream_is_quoted(kind):
    facts = answer(200, b"<html>\n Welcome", {"Content-Type": kind})

    assert facts.outcome == "bad_stream"
    assert facts.error == "not an event stream: <html> Welcome"


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (400, {}, b"", "rejected"),
        (404, {}, b"", "rejected"),
        (422, {}, b"", "rejected"),
        (429, {}, b"", "rejected"),
        (503, {"Retry-After": "1"}, b"", "rejected"),
        (503, {}, b'{"error":"server busy, please try again."}', "rejected"),
        (503, {}, b"", "server_error"),
        (500, {"retry-after": "1"}, b"", "server_error"),
        (502, {}, b"", "server_error"),
        (307, {"location": "/else"}, b"", "bad_stream"),
    ],
)
def test_a_status_decides_the_outcome(status, headers, body, outcome):
    facts = answer(status, body, headers)

    assert (facts.outcome, facts.status, list(facts.content)) == (outcome, status, [])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error":{"message":"no such model","code":404}}', "no such model"),
        (b'{"error":"busy","error_type":"overloaded"}', "busy"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"msg":"x"}]}', '{"detail":[{"msg":"x"}]}'),
        (b"Internal Server Error", "Internal Server Error"),
        (b"", "(empty body)"),
    ],
)
def test_the_message_of_an_error_body(body, says):
    assert answer(404, body).error == f"HTTP 404: {says}"


def test_no_answer_at_all_is_how_the_exchange_broke():
    facts = OpenAiDialect().read(WireResponse(broken="unreachable", detail="connection refused"))

    assert (facts.outcome, facts.status, facts.error) == ("unreachable", None, "connection refused")


def test_what_vllm_says_about_itself():
    metrics = {"queue_time_ms": 2.0, "time_to_first_token_ms": 12.0, "generation_time_ms": 30.0}
    last = usage(3, 2, prompt_tokens_details={"cached_tokens": 0}) | {"metrics": metrics}

    facts = read(text(" a", "length"), last)

    assert facts.server == ServerFacts(
        queue=0.002, prefill=0.010, decode=0.030, cached_prompt_tokens=0
    )


def test_what_llama_server_says_about_itself():
    timings = {"cache_n": 7, "prompt_n": 1, "prompt_ms": 4.0, "predicted_ms": 0.5}

    facts = read(text("", "length") | {"timings": timings})

    assert facts.server == ServerFacts(prefill=0.004, decode=0.0005, cached_prompt_tokens=7)
