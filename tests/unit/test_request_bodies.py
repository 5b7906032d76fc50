"""What stands in a request besides prompt and length, to the letter, for every protocol."""

import json

import pytest

from contract.config import validate
from contract.errors import ConfigError
from loadgen.backends.base import Request
from loadgen.backends.body import Body, merged
from loadgen.backends.llama_server import LlamaServerDialect, LlamaServerOpenAiDialect
from loadgen.backends.ollama import OllamaDialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.backends.tgi import TgiDialect
from loadgen.config import RunConfig

REQUEST = Request(prompt="bada bade", output_tokens=5, seed=7)
ALL = {
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "repetition_penalty": 1.1,
}
REPEAT = {("repeat_penalty" if k == "repetition_penalty" else k): v for k, v in ALL.items()}


def body_of(dialect):
    return json.loads(dialect.render(REQUEST, "m").body)


def test_all_of_it_to_vllm():
    body = Body(ALL, {"stream_options": {"continuous_usage_stats": True}, "priority": 3})
    assert body_of(OpenAiDialect("vllm", body=body)) == {
        "model": "m",
        "prompt": "bada bade",
        "max_tokens": 5,
        "seed": 7,
        **ALL,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
        "min_tokens": 5,
        "priority": 3,
    }


def test_all_of_it_to_ollama_in_one_piece():
    body = Body(ALL, {"options": {"mirostat": 1}, "think": False}, streaming=False)
    assert body_of(OllamaDialect("chat", "10m", 2048, body)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "bada bade"}],
        "stream": False,
        "truncate": False,
        "keep_alive": "10m",
        "think": False,
        "options": {"num_predict": 5, "seed": 7, **REPEAT, "num_ctx": 2048, "mirostat": 1},
    }


def test_all_of_it_to_tgi_in_one_piece():
    sampling = {"temperature": 0.8, "top_k": 40, "top_p": 1.0, "repetition_penalty": 1.1}
    body = Body(sampling, {"parameters": {"watermark": True}}, streaming=False)
    wire = TgiDialect(body).render(REQUEST, "m")
    assert wire.path == "/generate"
    assert json.loads(wire.body) == {
        "inputs": "bada bade",
        "parameters": {
            "max_new_tokens": 5,
            "seed": 7,
            "do_sample": True,
            "temperature": 0.8,
            "top_k": 40,
            "repetition_penalty": 1.1,
            "details": True,
            "watermark": True,
        },
    }


def test_all_of_it_to_llama_server():
    body = Body(ALL, {"id_slot": 2}, streaming=False, ignore_eos=False)
    assert body_of(LlamaServerDialect(body=body)) == {
        "model": "m",
        "prompt": "bada bade",
        "n_predict": 5,
        "seed": 7,
        **REPEAT,
        "stream": False,
        "ignore_eos": False,
        "cache_prompt": False,
        "id_slot": 2,
    }
    assert body_of(LlamaServerOpenAiDialect("completions", body=body)) == {
        "model": "m",
        "prompt": "bada bade",
        "max_tokens": 5,
        "seed": 7,
        **REPEAT,
        "stream": False,
        "cache_prompt": False,
        "id_slot": 2,
    }


def test_a_chat_with_tgi_has_the_plain_fields_alone():
    assert body_of(OpenAiDialect("tgi", "chat")) == {
        "model": "m",
        "messages": [{"role": "user", "content": "bada bade"}],
        "max_tokens": 5,
        "seed": 7,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("flavour", ["vllm", "llama-server"])
def test_a_reply_may_end_by_itself_where_it_is_let(flavour):
    body = body_of(OpenAiDialect(flavour, body=Body(ignore_eos=False)))
    assert not {"ignore_eos", "min_tokens"} & set(body)


def test_an_object_meets_an_object_field_by_field_and_the_last_word_wins():
    body = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
    extra = {"a": {"c": {"f": 3}, "b": 4}, "e": [2], "g": {"h": 5}}
    assert merged(body, extra) == {
        "a": {"b": 4, "c": {"d": 2, "f": 3}}, "e": [2], "g": {"h": 5}
    }  # fmt: skip
    assert body == {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}


def config(kind, **settings):
    return validate(RunConfig, {"backend": {"kind": kind, **settings}})


def test_settings_become_the_body():
    settings = config("vllm", **ALL, extra_body={"priority": 3}, ignore_eos=False).backend
    assert settings.body() == Body(ALL, {"priority": 3}, ignore_eos=False)
    assert not settings.exact
    assert config("ollama", streaming=False).backend.body().streaming is False


@pytest.mark.parametrize(
    ("kind", "exact"),
    [("hf", True), ("vllm", True), ("llama-server", True), ("openai", False), ("ollama", False),
     ("tgi", False)],
)  # fmt: skip
def test_which_backends_give_as_many_tokens_as_are_asked_for(kind, exact):
    assert config(kind).backend.exact is exact


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("openai", {"top_k": 4}, "unknown field 'backend.top_k'"),
        ("tgi", {"min_p": 0.1}, "unknown field 'backend.min_p'"),
        ("openai", {"ignore_eos": True}, "unknown field 'backend.ignore_eos'"),
        ("hf", {"temperature": 1}, "unknown field 'backend.temperature'"),
        ("vllm", {"top_p": 0.5}, "backend: top_p: changes nothing without a temperature above 0"),
        ("vllm", {"min_p": 0.5, "temperature": 0}, "backend: min_p: changes nothing"),
        ("vllm", {"temperature": -1}, "backend.temperature"),
        ("vllm", {"top_p": 0, "temperature": 1}, "backend.top_p"),
        ("tgi", {"presence_penalty": 1}, "backend: presence_penalty: not on TGI's route for"),
        ("tgi", {"endpoint": "chat", "top_k": 1, "temperature": 1}, "backend: top_k: not on TGI's"),
        ("vllm", {"extra_body": [1]}, "backend.extra_body"),
        ("vllm", {"extra_body": {"stream": False}}, "extra_body: 'stream' is chosen by"),
        ("vllm", {"extra_body": {"model": "x"}}, "extra_body: 'model' is chosen by --model"),
        ("vllm", {"extra_body": {"messages": []}}, "'messages' is made by the generator"),
        ("vllm", {"extra_body": {"prompt": "x"}}, "'prompt' is made by the generator"),
        ("vllm", {"extra_body": {"n": 2}}, "'n' is always 1"),
        ("vllm", {"extra_body": {"max_tokens": 2}}, "'max_tokens' is chosen by --osl"),
        ("ollama", {"extra_body": {"options": {"num_predict": 1}}}, "'num_predict' is chosen by"),
        ("tgi", {"extra_body": {"parameters": {"max_new_tokens": 1}}}, "chosen by --osl"),
        ("vllm", {"extra_body": {"a": [{"b": float("nan")}]}}, "a number in it is not finite"),
        ("vllm", {"extra_body": {"a": float("inf")}}, "a number in it is not finite"),
        ("vllm", {"extra_body": {"a": 2**70}}, "no JSON can hold it"),
    ],
)
def test_what_cannot_be_honoured_is_refused(kind, settings, says):
    with pytest.raises(ConfigError) as refused:
        config(kind, **settings)
    assert says in str(refused.value)


def test_a_schema_may_name_its_fields_as_it_likes():
    schema = {"response_format": {"schema": {"properties": {"model": {}, "prompt": {}}}}}
    assert config("vllm", extra_body=schema).backend.extra_body == schema


@pytest.mark.parametrize("limit", ["ttft:200", "e2el:900 tpot:50", "itl:20"])
def test_an_objective_nobody_can_see_is_refused(limit):
    document = {"backend": {"kind": "vllm", "streaming": False}}
    with pytest.raises(ConfigError, match=r"goodput: nobody sees \w+ without streaming"):
        validate(RunConfig, {**document, "goodput": limit})
    assert validate(RunConfig, {**document, "goodput": "e2el:900"}).goodput == "e2el:900"
