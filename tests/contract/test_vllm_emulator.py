"""The vLLM emulator as the official OpenAI client sees it, where it is more than the protocol."""

import asyncio
import json
import urllib.request

import openai
import pytest

from loadgen.fakes.emulator import Served, emulator
from loadgen.fakes.openai import VLLM
from loadgen.fakes.paces import Scripted
from loadgen.fakes.script import Script
from loadgen.fakes.server import Server
from loadgen.fakes.serving import serve
from loadgen.fakes.steps import StepModel

ASK = {"model": "tiny", "prompt": "bada " * 40, "max_tokens": 4, "stream": True}
USAGE = {"stream_options": {"include_usage": True}}


def serving(model=None, script=None, **served):
    return emulator("vllm", model or StepModel(step_seconds=0.002), Served(**served), script)


def client(server):
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


async def stream(api, **more):
    return [chunk async for chunk in await api.completions.create(**ASK | more)]


@pytest.mark.asyncio
async def test_cached_tokens_are_told_in_whole_blocks():
    model = StepModel(step_seconds=0.002, prefix_block=16)
    async with serving(model) as server, client(server) as api:
        *_, cold = await stream(api, **USAGE)
        *_, warm = await stream(api, **USAGE)

    assert cold.usage.prompt_tokens_details.cached_tokens == 0
    assert warm.usage.prompt_tokens_details.cached_tokens == 32
    assert warm.usage.prompt_tokens == 40


@pytest.mark.asyncio
async def test_usage_on_every_chunk_when_asked_for():
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with serving() as server, client(server) as api:
        *chunks, last = await stream(api, stream_options=options)

    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == last.usage.completion_tokens == 4


@pytest.mark.asyncio
async def test_an_early_stop_unless_the_end_token_is_ignored():
    async with serving(stop_after=3) as server, client(server) as api:
        chunks = await stream(api)
        ignoring = await stream(api, extra_body={"ignore_eos": True})

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert ignoring[-1].choices[0].finish_reason == "length"
    assert [visit.output_tokens for visit in server.log.visits] == [3, 4]


@pytest.mark.asyncio
async def test_a_prompt_over_the_context_is_refused():
    async with serving(context=42) as server, client(server) as api:
        with pytest.raises(openai.BadRequestError, match="maximum context length is 42"):
            await stream(api)
        (model,) = [model async for model in api.models.list()]

    assert model.max_model_len == 42


@pytest.mark.asyncio
async def test_a_full_queue_refuses_with_503():
    model = StepModel(step_seconds=0.1, slots=1, queue_limit=1)
    async with serving(model) as server, client(server) as api:
        answers = await asyncio.gather(*(stream(api) for _ in range(5)), return_exceptions=True)

    refused = [a for a in answers if isinstance(a, openai.InternalServerError)]
    assert len(refused) == 3
    assert all(answer.status_code == 503 for answer in refused)


@pytest.mark.asyncio
async def test_a_sleeping_engine_answers_its_head_and_then_nothing():
    async with serving() as server, client(server) as api:
        await asyncio.to_thread(_post, f"{server.url}/sleep?level=1")
        asleep = await asyncio.to_thread(_get, f"{server.url}/is_sleeping")
        head = await api.completions.create(**ASK)
        load = await asyncio.to_thread(_get, f"{server.url}/load")
        assert server.log.visits[0].first is None
        await asyncio.to_thread(_post, f"{server.url}/wake_up")
        chunks = [chunk async for chunk in head]

    assert (asleep, load) == ({"is_sleeping": True}, {"server_load": 1})
    assert len(chunks) >= 1
    assert server.log.visits[0].output_tokens == 4


@pytest.mark.asyncio
async def test_an_engine_that_dies_half_way():
    async with serving(script=Script(failures={0: "error_event"})) as server, client(server) as api:
        with pytest.raises(openai.APIError, match="The engine died"):
            await stream(api)

    assert server.log.visits[0].output_tokens == 2


@pytest.mark.asyncio
async def test_a_client_that_hung_up_frees_its_place():
    model = StepModel(step_seconds=0.005, slots=1)
    async with serving(model) as server, client(server) as api:
        first = asyncio.create_task(stream(api, max_tokens=2000))
        async with asyncio.timeout(10):
            while not server.log.visits or server.log.visits[0].first is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            first.cancel()
            await asyncio.wait([first])
            await stream(api)

    gone, served = server.log.visits
    assert (gone.outcome, served.outcome) == ("gone", "ok")
    assert gone.output_tokens < 2000
    assert served.start < gone.end + 0.5


@pytest.mark.asyncio
async def test_a_pace_that_fails_is_not_hidden(capsys):
    class Broken(Scripted):
        async def run(self):
            raise ArithmeticError("a step without an end")

    with pytest.raises(ArithmeticError, match="a step without an end"):
        await serve(Server(VLLM(), Broken(Script())))

    assert capsys.readouterr().out.startswith("listening on http://127.0.0.1:")


def _get(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def _post(url):
    with urllib.request.urlopen(url, b"") as answer:
        return answer.read()
