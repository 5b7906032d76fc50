"""The native dialects of Ollama, TGI and llama-server: what is theirs alone."""

import json

import pytest

from contract.errors import ConfigError
from contract.records import ServerFacts
from loadgen.backends.base import Request, WireResponse
from loadgen.backends.llama_server import LlamaServerDialect, LlamaServerOpenAiDialect
from loadgen.backends.ollama import OllamaDialect
from loadgen.backends.tgi import TgiDialect

REQUEST = Request(prompt="bada bade", output_tokens=5, seed=7)


def body_of(dialect):
    return json.loads(dialect.render(REQUEST, "m").body)


def ollama(*documents, headers=None):
    reads = [json.dumps(document).encode() + b"\n" for document in documents]
    kind = {"Content-Type": "application/x-ndjson"} if headers is None else headers
    return OllamaDialect().read(WireResponse(200, kind, reads))


def events(dialect, *documents, status=200):
    reads = [b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents]
    return dialect.read(WireResponse(status, {"Content-Type": "text/event-stream"}, reads))


def done(**fields):
    return {"response": "", "done": True, "done_reason": "stop", **fields}


def test_a_raw_prompt_without_a_template_is_sent_to_ollama():
    wire = OllamaDialect().render(REQUEST, "qwen:0.5b")

    assert wire.path == "/api/generate"
    assert json.loads(wire.body) == {
        "model": "qwen:0.5b",
        "prompt": "bada bade",
        "raw": True,
        "stream": True,
        "truncate": False,
        "options": {"num_predict": 5, "temperature": 0.0, "seed": 7},
    }


def test_a_chat_with_ollama_carries_the_prompt_as_the_user():
    wire = OllamaDialect("chat").render(REQUEST, "m")

    body = json.loads(wire.body)
    assert wire.path == "/api/chat"
    assert body["messages"] == [{"role": "user", "content": "bada bade"}]
    assert not {"prompt", "raw"} & set(body)


def test_keep_alive_and_num_ctx_are_sent_only_when_asked_for():
    body = body_of(OllamaDialect(keep_alive="10m", num_ctx=2048))

    assert (body["keep_alive"], body["options"]["num_ctx"]) == ("10m", 2048)
    assert body_of(OllamaDialect(keep_alive=0.0))["keep_alive"] == 0
    assert "keep_alive" not in body_of(OllamaDialect())
    assert "num_ctx" not in body_of(OllamaDialect())["options"]


def test_an_unknown_endpoint_of_ollama_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'generate'"):
        OllamaDialect("generat")


def test_counters_left_out_are_zero():
    facts = ollama(done())

    assert (facts.outcome, facts.prompt_tokens, facts.output_tokens) == ("ok", 0, 0)
    assert facts.server is None


def test_a_total_without_its_parts_was_all_waiting():
    assert ollama(done(total_duration=2_000_000_000)).server == ServerFacts(
        queue=2.0, prefill=0.0, decode=0.0
    )


@pytest.mark.parametrize(
    ("load", "loaded", "queue"),
    [(999_999_999, None, 4.0), (1_000_000_000, 1.0, 3.0), (3_000_000_000, 3.0, 1.0)],
)
def test_a_load_is_one_only_from_a_second_on_and_the_parts_add_up(load, loaded, queue):
    counters = {"prompt_eval_duration": 250_000_000, "eval_duration": 750_000_000}

    server = ollama(done(total_duration=5_000_000_000, load_duration=load, **counters)).server

    assert server == ServerFacts(load=loaded, queue=pytest.approx(queue), prefill=0.25, decode=0.75)


def test_ollama_never_says_how_much_of_a_prompt_was_cached():
    assert ollama(done(total_duration=1, prompt_eval_count=9)).server.cached_prompt_tokens is None


@pytest.mark.parametrize("wrong", [-1, 2.5, "7", True])
def test_a_counter_that_is_no_count_is_unknown(wrong):
    facts = ollama(done(eval_count=wrong))

    assert (facts.output_tokens, facts.output_source) == (None, None)


def test_a_stream_aborted_without_a_word_is_no_success():
    said = {"response": " la", "done": False}

    facts = ollama(*[said] * 31)

    assert (facts.outcome, facts.finish_reason, len(facts.content)) == ("truncated", None, 31)


def test_thinking_and_tool_calls_are_tokens_too():
    facts = ollama(
        {"response": "", "thinking": "hm", "done": False},
        {"message": {"content": "", "thinking": "hm"}, "done": False},
        {"message": {"content": "", "tool_calls": [{}]}, "done": False},
        done(response="x"),
    )

    assert facts.content == [0, 1, 2, 3]


def test_a_plain_json_answer_without_a_stream_is_read_too():
    facts = ollama(done(done_reason="unload"), headers={"Content-Type": "application/json"})

    assert (facts.outcome, facts.finish_reason) == ("ok", "unload")


def test_what_is_sent_to_tgi():
    wire = TgiDialect().render(REQUEST, "any")

    assert wire.path == "/generate_stream"
    assert json.loads(wire.body) == {
        "inputs": "bada bade",
        "parameters": {"max_new_tokens": 5, "do_sample": False, "seed": 7, "details": True},
    }


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("overloaded", "rejected"),
        ("validation", "rejected"),
        ("template_error", "rejected"),
        ("generation", "server_error"),
        ("incomplete_generation", "server_error"),
        ("incomplete_generation_stream", "server_error"),
    ],
)
def test_an_error_type_of_tgi_decides_the_outcome_in_a_stream_and_by_status(kind, outcome):
    document = {"error": "Model is overloaded", "error_type": kind}
    by_status = WireResponse(424, {}, [json.dumps(document).encode()])

    facts = events(TgiDialect(), document)

    assert (facts.outcome, facts.error) == (outcome, f"{kind}: Model is overloaded")
    assert TgiDialect().read(by_status).outcome == outcome


def test_an_end_token_of_tgi_is_counted_by_the_server_and_no_content():
    end = {
        "token": {"id": 2, "text": "</s>", "special": True},
        "generated_text": " a",
        "details": {"finish_reason": "eos_token", "generated_tokens": 2, "input_length": 3},
    }

    facts = events(TgiDialect(), {"token": {"text": " a", "special": False}}, end)

    assert (facts.content, facts.output_tokens, facts.finish_reason) == ([0], 2, "stop")


def test_tgi_without_details_names_no_finish_reason():
    last = {"token": {"text": " a", "special": False}, "generated_text": " a", "details": None}

    assert events(TgiDialect(), last).outcome == "truncated"


def test_what_is_sent_to_llama_server():
    wire = LlamaServerDialect().render(REQUEST, "m")

    assert wire.path == "/completion"
    assert json.loads(wire.body) == {
        "model": "m",
        "prompt": "bada bade",
        "n_predict": 5,
        "temperature": 0.0,
        "seed": 7,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    assert body_of(LlamaServerDialect(cache_prompt=True))["cache_prompt"] is True


@pytest.mark.parametrize("cache", [True, False])
def test_the_openai_routes_of_llama_server_carry_its_own_fields(cache):
    dialect = LlamaServerOpenAiDialect("chat", cache_prompt=cache)

    assert dialect.name == "llama-server"
    assert dialect.render(REQUEST, "m").path == "/v1/chat/completions"
    body = body_of(dialect)
    assert (body["cache_prompt"], body["ignore_eos"], body["max_tokens"]) == (cache, True, 5)


def test_a_context_that_llama_server_cut_is_noted():
    end = {"stop": True, "stop_type": "limit", "truncated": True, "tokens_predicted": 1}

    facts = events(LlamaServerDialect(), {"content": "a"}, end)

    assert (facts.outcome, facts.error) == ("ok", "the server cut what did not fit its context")


def test_a_prompt_over_the_context_of_llama_server_is_rejected():
    said = {"code": 400, "message": "too long", "type": "exceed_context_size_error"}
    answer = WireResponse(400, {}, [json.dumps({"error": said}).encode()])

    facts = LlamaServerDialect().read(answer)

    assert (facts.outcome, facts.error) == ("rejected", "HTTP 400: too long")
