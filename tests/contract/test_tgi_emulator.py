"""The TGI emulator as the official Hugging Face client sees it."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import (
    GenerationError,
    OverloadedError,
    ValidationError,
)

from loadgen.fakes.emulator import Served, emulator
from loadgen.fakes.script import Script
from loadgen.fakes.steps import StepModel

FAST = StepModel(step_seconds=0.002)
WORDS = "bada bade badi bado badu"


def serving(model=FAST, script=None, **served):
    return emulator("tgi", model, Served(**served), script)


async def stream(api, tokens=4):
    asked = await api.text_generation(WORDS, stream=True, details=True, max_new_tokens=tokens)
    return [part async for part in asked]


@pytest.mark.asyncio
async def test_a_stream_has_an_event_per_token():
    async with serving() as server, AsyncInferenceClient(server.url) as api:
        parts = await stream(api)

    assert [part.index for part in parts] == [1, 2, 3, 4]
    assert all(part.token.text.startswith(" ") for part in parts)
    assert all(part.details is None for part in parts[:-1])
    details = parts[-1].details
    assert (details.finish_reason, details.generated_tokens, details.input_length) == (
        "length", 4, 5,
    )  # fmt: skip
    assert parts[-1].generated_text == "".join(part.token.text for part in parts)


@pytest.mark.asyncio
async def test_the_end_token_is_an_event_but_no_text():
    async with serving(stop_after=3) as server, AsyncInferenceClient(server.url) as api:
        parts = await stream(api, tokens=10)

    assert [part.token.special for part in parts] == [False, False, True]
    details = parts[-1].details
    assert (details.finish_reason, details.generated_tokens) == ("eos_token", 3)
    assert len(parts[-1].generated_text.split()) == 2


@pytest.mark.asyncio
async def test_a_whole_answer_tells_its_times_in_headers():
    async with serving() as server, AsyncInferenceClient(server.url) as api:
        whole = await api.text_generation(WORDS, details=True, max_new_tokens=4)
        headers = await asyncio.to_thread(_headers, server.url)

    assert (whole.details.generated_tokens, len(whole.details.tokens)) == (4, 4)
    assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("1", "8")
    assert headers["x-inference-time"] in ("15", "16")
    assert headers["x-time-per-token"] in ("1", "2")


@pytest.mark.asyncio
async def test_a_chat():
    async with serving() as server, AsyncInferenceClient(server.url) as api:
        said = [{"role": "user", "content": "bada bade"}]
        whole = await api.chat_completion(said, max_tokens=3)
        asked = await api.chat_completion(said, max_tokens=3, stream=True)
        parts = [part async for part in asked]

    assert len(whole.choices[0].message.content.split()) == 3
    assert whole.usage.prompt_tokens == 2
    assert parts[-1].choices[0].finish_reason == "length"


@pytest.mark.asyncio
async def test_errors_are_events_inside_a_200():
    script = Script(failures={0: "busy", 1: "internal", 2: "error_event"})
    async with serving(script=script, context=8) as server:
        async with AsyncInferenceClient(server.url) as api:
            with pytest.raises(OverloadedError):
                await stream(api, tokens=2)
            with pytest.raises(GenerationError):
                await stream(api, tokens=2)
            with pytest.raises(GenerationError):
                await stream(api, tokens=2)
            with pytest.raises(ValidationError, match=r"must be <= 8. Given: 5"):
                await stream(api)
        body = {"inputs": WORDS, "parameters": {"max_new_tokens": 4}}
        streamed = await asyncio.to_thread(_status, f"{server.url}/generate_stream", body)
        whole = await asyncio.to_thread(_status, f"{server.url}/generate", body)

    assert (streamed, whole) == (200, 422)
    outcomes = [visit.outcome for visit in server.log.visits]
    assert outcomes[:3] == ["busy", "internal", "error_event"]


@pytest.mark.asyncio
async def test_a_full_house_is_overloaded():
    model = StepModel(step_seconds=0.1, slots=1, queue_limit=1)
    async with serving(model) as server, AsyncInferenceClient(server.url) as api:
        answers = await asyncio.gather(*(stream(api) for _ in range(5)), return_exceptions=True)
        refused = await asyncio.to_thread(_info, server.url)

    assert sum(isinstance(answer, OverloadedError) for answer in answers) == 3
    assert sum(isinstance(answer, list) for answer in answers) == 2
    assert refused["max_concurrent_requests"] == 2
    assert refused["max_total_tokens"] == 4096


@pytest.mark.asyncio
async def test_a_stream_without_its_end():
    script = Script(always="no_finish")
    async with serving(script=script) as server, AsyncInferenceClient(server.url) as api:
        parts = await stream(api)

    assert len(parts) == 4
    assert parts[-1].details is None


def _headers(url):
    body = json.dumps({"inputs": "bada", "parameters": {"max_new_tokens": 8}}).encode()
    with urllib.request.urlopen(f"{url}/generate", body) as answer:
        return answer.headers


def _status(url, document):
    try:
        with urllib.request.urlopen(url, json.dumps(document).encode()) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def _info(url):
    for page in ("/health", "/ping", "/"):
        with urllib.request.urlopen(url + page) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(f"{url}/info") as answer:
        return json.load(answer)
