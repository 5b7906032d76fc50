"""The llama-server emulator: native and OpenAI routes, timings, and its closing connections."""

import asyncio
import json
import urllib.error
import urllib.request

import openai
import pytest

from loadgen.fakes.emulator import Served, emulator
from loadgen.fakes.script import Script
from loadgen.fakes.steps import StepModel

FAST = StepModel(step_seconds=0.002, prefill_token_seconds=0.0005, prefix_block=1)
WORDS = "bada bade badi bado badu"


def serving(model=FAST, script=None, **served):
    return emulator("llama-server", model, Served(**served), script)


def client(server):
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


async def call(url, document=None):
    """Status and body of a call by the standard library."""

    def call():
        body = None if document is None else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(url, body) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    return await asyncio.to_thread(call)


async def native(server, **more):
    """The events of a native stream."""
    asked = {"prompt": WORDS, "n_predict": 4, "stream": True, **more}
    _, body = await call(f"{server.url}/completion", asked)
    return [json.loads(line.removeprefix(b"data: ")) for line in body.splitlines() if line]


@pytest.mark.asyncio
async def test_a_native_stream_and_its_timings():
    async with serving() as server:
        *pieces, last = await native(server)
        *_, again = await native(server)
        *_, anew = await native(server, cache_prompt=False)

    assert [piece["tokens_predicted"] for piece in pieces] == [1, 2, 3, 4]
    assert all(piece["content"] and not piece["stop"] for piece in pieces)
    assert (last["stop"], last["stop_type"], last["tokens_evaluated"]) == (True, "limit", 6)
    (visit, *_) = server.log.visits
    timings = last["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (0, 6, 4)
    assert timings["prompt_ms"] == pytest.approx(1e3 * (visit.first - visit.start))
    assert timings["predicted_ms"] == pytest.approx(6.0)
    assert timings["predicted_per_token_ms"] == pytest.approx(2.0)
    assert (again["timings"]["cache_n"], again["timings"]["prompt_n"]) == (5, 1)
    assert again["timings"]["prompt_ms"] == pytest.approx(2.5)
    assert (anew["timings"]["cache_n"], anew["timings"]["prompt_n"]) == (0, 6)


@pytest.mark.asyncio
async def test_the_openai_routes_carry_timings_too():
    async with serving() as server, client(server) as api:
        asked = await api.completions.create(
            model="whatever", prompt=WORDS, max_tokens=4, stream=True
        )
        *texts, last = [chunk async for chunk in asked]
        said = [{"role": "user", "content": "bada"}]
        options = {"stream": True, "stream_options": {"include_usage": True}}
        asked = await api.chat.completions.create(
            model="whatever", messages=said, max_tokens=3, **options
        )
        role, *deltas, end, usage = [chunk async for chunk in asked]

    assert all(chunk.choices[0].text for chunk in texts)
    assert (last.choices[0].text, last.choices[0].finish_reason) == ("", "length")
    assert (last.model, last.usage.completion_tokens, last.timings["predicted_n"]) == ("tiny", 4, 4)
    assert role.choices[0].delta.content is None
    assert len(deltas) == 3
    assert end.choices[0].finish_reason == "length"
    assert (usage.choices, usage.usage.prompt_tokens) == ([], 2)
    assert usage.usage.prompt_tokens_details.cached_tokens == usage.timings["cache_n"] == 1


@pytest.mark.asyncio
async def test_it_closes_after_each_stream_though_it_announced_to_keep_alive():
    async with serving() as server:
        body = b'{"prompt":"a","n_predict":1,"stream":true}'
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.split(":")[2]))
        head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        said = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert b"Keep-Alive: timeout=5, max=100" in said
    assert said.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.asyncio
async def test_an_idle_model_sleeps_and_its_page_says_so():
    model = StepModel(step_seconds=0.002, load_seconds=0.1, loaded=False, idle_seconds=60)
    async with serving(model) as server:
        _, asleep = await call(f"{server.url}/props")
        health, _ = await call(f"{server.url}/health")
        await native(server)
        _, awake = await call(f"{server.url}/props")
        (visit,) = server.log.visits

    assert (json.loads(asleep)["is_sleeping"], json.loads(awake)["is_sleeping"]) == (True, False)
    assert health == 200
    assert visit.loaded - visit.arrival >= 0.1
    assert visit.start == visit.loaded


@pytest.mark.asyncio
async def test_pages_and_refusals():
    async with serving(context=16, script=Script(failures={2: "error_event"})) as server:
        _, slots = await call(f"{server.url}/slots")
        long = await call(f"{server.url}/completion", {"prompt": "a " * 40, "n_predict": 1})
        broken = await call(f"{server.url}/v1/completions", {"prompt": None})
        died = await native(server)

    assert len(json.loads(slots)) == 8
    assert long[0] == 400
    error = json.loads(long[1])["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == (
        "exceed_context_size_error", 41, 16,
    )  # fmt: skip
    assert broken[0] == 400
    assert died[-1]["error"]["code"] == 500


@pytest.mark.asyncio
async def test_an_early_stop_unless_the_end_token_is_ignored():
    async with serving(stop_after=2) as server:
        *pieces, last = await native(server)
        *_, ignoring = await native(server, ignore_eos=True)

    assert len(pieces) == 1
    assert (last["stop_type"], last["tokens_predicted"]) == ("eos", 2)
    assert (ignoring["stop_type"], ignoring["tokens_predicted"]) == ("limit", 4)
