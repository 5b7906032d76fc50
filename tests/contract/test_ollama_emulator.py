"""The Ollama emulator as the official client sees it, and its counters against llama-server's."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import ollama
import pytest

from contract.errors import BackendError
from loadgen.fakes.emulator import Served, emulator
from loadgen.fakes.ollama import Ollama, seconds
from loadgen.fakes.protocol import Ask, Job
from loadgen.fakes.script import Script
from loadgen.fakes.slots import Visit
from loadgen.fakes.steps import StepModel
from loadgen.fakes.timings import Timings

FAST = StepModel(step_seconds=0.002, prefill_token_seconds=0.0005)
RECORDED = Path(__file__).parents[1] / "golden" / "transcripts" / "llama_server.txt"
WORDS = "bada bade badi bado badu"


def serving(model=FAST, script=None, **served):
    return emulator("ollama", model, Served(**served), script)


async def stream(api, prompt=WORDS, **more):
    options = {"num_predict": more.pop("tokens", 4)}
    asked = await api.generate("tiny", prompt, stream=True, options=options, **more)
    return [part async for part in asked]


@pytest.mark.asyncio
async def test_a_stream_and_its_counters():
    async with serving() as server, ollama.AsyncClient(server.url) as api:
        *parts, last = await stream(api)

    assert [bool(part.response) for part in parts] == [True] * 4
    assert [part.done for part in parts] == [False] * 4
    assert (last.done, last.done_reason, last.response) == (True, "length", "")
    assert (last.prompt_eval_count, last.eval_count) == (6, 4)  # with BOS
    (visit,) = server.log.visits
    assert last.prompt_eval_duration == pytest.approx(1e9 * (visit.first - visit.start), abs=1)
    assert last.eval_duration == pytest.approx(1e9 * (visit.last - visit.first), abs=1)
    assert last.eval_duration == pytest.approx(3 * 2e6, abs=1e3)
    assert last.prompt_eval_duration == pytest.approx(2e6 + 6 * 5e5, abs=1e3)
    assert last.total_duration == pytest.approx(1e9 * (visit.last - visit.arrival), abs=1)
    assert 0 < last.load_duration < 5e8
    assert len(last.context) == 10


@pytest.mark.asyncio
async def test_a_whole_answer_and_a_chat():
    async with serving() as server, ollama.AsyncClient(server.url) as api:
        whole = await api.generate("tiny", WORDS, options={"num_predict": 3})
        message = {"role": "user", "content": "bada bade"}
        chat = await api.chat("tiny", [message], options={"num_predict": 3})
        parts = [part async for part in await api.chat("tiny", [message], stream=True)]

    assert (len(whole.response.split()), whole.eval_count) == (3, 3)
    assert (len(chat.message.content.split()), chat.prompt_eval_count) == (3, 3)
    assert parts[-1].done_reason == "stop"  # open-ended: the model ends it
    assert "context" not in parts[-1].model_dump()


@pytest.mark.asyncio
async def test_zeros_are_left_out():
    async with serving(StepModel(step_seconds=0.0)) as server:
        body = json.dumps({"model": "tiny", "prompt": "a", "options": {"num_predict": 1}})
        lines = await asyncio.to_thread(_post, f"{server.url}/api/generate", body)

    last = json.loads(lines[-1])
    assert "prompt_eval_duration" not in last
    # The first token takes no step of its own, and llama-server says a microsecond of it.
    assert (last["eval_count"], last["eval_duration"]) == (1, 1000)


def test_without_a_load_or_a_wait_the_total_is_the_sum():
    visit = Visit(0, arrival=1.0, loaded=1.0, start=1.0, first=1.25, last=1.75, prompt_tokens=9,
                  output_tokens=5)  # fmt: skip
    ask = Ask("tiny", ["<s>"] * 9, 5, 5, "/api/generate", stream=False)
    said = json.loads(Ollama(["tiny"]).whole(Job(ask, visit)).body)
    assert {name: value for name, value in said.items() if re.search("count|duration", name)} == {
        "total_duration": 750_000_000,
        "prompt_eval_count": 9,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 5,
        "eval_duration": 500_000_000,
    }


@pytest.mark.asyncio
async def test_an_early_stop_counts_a_token_without_text():
    async with serving(stop_after=3) as server, ollama.AsyncClient(server.url) as api:
        *parts, last = await stream(api, tokens=10)

    assert (len(parts), last.eval_count, last.done_reason) == (2, 3, "stop")


@pytest.mark.asyncio
async def test_what_was_cached_is_counted_but_takes_no_time():
    async with (
        serving(replace(FAST, prefix_block=1)) as server,
        ollama.AsyncClient(server.url) as api,
    ):
        cold, warm = (await stream(api))[-1], (await stream(api))[-1]

    assert cold.prompt_eval_count == warm.prompt_eval_count == 6
    assert warm.prompt_eval_duration == pytest.approx(2e6 + 5e5, abs=1e3)
    assert server.log.visits[1].cached_tokens == 5


@pytest.mark.asyncio
async def test_an_answer_is_cached_but_for_its_last_token():
    model = replace(FAST, prefix_block=1)
    async with serving(model) as server, ollama.AsyncClient(server.url) as api:
        said = "".join(part.response for part in await stream(api, tokens=4))
        await stream(api, f"{WORDS}{said} and on")

    assert server.log.visits[1].cached_tokens == 6 + 3


@pytest.mark.asyncio
async def test_a_cold_model_shows_its_load_once():
    model = StepModel(step_seconds=0.002, load_seconds=0.2, loaded=False)
    async with serving(model) as server, ollama.AsyncClient(server.url) as api:
        assert (await api.ps()).models == []
        cold = (await stream(api))[-1]
        assert [m.model for m in (await api.ps()).models] == ["tiny:latest"]
        warm = (await stream(api))[-1]
        gone = await api.generate("tiny", keep_alive=0)
        assert (await api.ps()).models == []
        back = await api.generate("tiny")
        again = (await stream(api))[-1]

    assert cold.load_duration >= 2e8
    assert warm.load_duration < 1e8
    assert (gone.done_reason, back.done_reason) == ("unload", "load")
    assert again.load_duration < 1e8
    assert server.pace.steps.loads == 2


@pytest.mark.asyncio
async def test_a_model_kept_for_no_time_is_gone_after_its_answer():
    async with serving() as server, ollama.AsyncClient(server.url) as api:
        await stream(api, keep_alive="10m")
        (kept,) = (await api.ps()).models
        await stream(api, keep_alive=0)
        left = (await api.ps()).models

    assert 595 < (kept.expires_at - datetime.now(UTC)).total_seconds() <= 600
    assert left == []


@pytest.mark.asyncio
async def test_another_context_reloads_the_model():
    model = StepModel(step_seconds=0.002, load_seconds=0.1)
    async with serving(model) as server, ollama.AsyncClient(server.url) as api:
        await stream(api)
        other = await api.generate("tiny", WORDS, options={"num_ctx": 512, "num_predict": 1})
        listed = (await api.ps()).models

    assert other.load_duration >= 1e8
    assert listed[0].context_length == 512


@pytest.mark.asyncio
async def test_a_prompt_over_the_context_is_cut_silently_or_refused():
    long = " ".join(f"w{number}" for number in range(100))
    async with serving(context=64) as server, ollama.AsyncClient(server.url) as api:
        cut = await api.generate("tiny", long, options={"num_predict": 1})
        body = json.dumps({"model": "tiny", "prompt": long, "truncate": False})
        refused = await asyncio.to_thread(_status, f"{server.url}/api/generate", body)

    assert cut.prompt_eval_count == 64 - (64 - 5) // 2
    assert refused == (400, {"error": "the input length exceeds the context length"})


@pytest.mark.asyncio
async def test_pages():
    async with serving(models=("tiny", "other:1b")) as server:
        async with ollama.AsyncClient(server.url) as api:
            tags = await api.list()
            shown = await api.show("tiny")
            with pytest.raises(ollama.ResponseError) as absent:
                await api.show("nope")
        version = await asyncio.to_thread(_get, f"{server.url}/api/version")
        alive = await asyncio.to_thread(_get, server.url)

    assert [m.model for m in tags.models] == ["tiny:latest", "other:1b"]
    assert shown.modelinfo["llama.context_length"] == 4096
    assert absent.value.status_code == 404
    assert "version" in json.loads(version)
    assert alive == b"Ollama is running"


@pytest.mark.asyncio
async def test_failures_are_the_clients_own_errors():
    script = Script(failures={0: "busy", 1: "internal", 2: "error_event", 3: "no_finish"})
    async with serving(script=script) as server, ollama.AsyncClient(server.url) as api:
        statuses = []
        for _ in range(3):
            with pytest.raises(ollama.ResponseError) as caught:
                await stream(api)
            statuses.append(caught.value.status_code)
        cut = await stream(api)
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
            await api.generate("nope", "x")

    assert statuses == [503, 500, -1]
    assert not any(part.done for part in cut)
    outcomes = [visit.outcome for visit in server.log.visits]
    assert outcomes == ["busy", "internal", "error_event", "ok", "rejected"]
    assert server.log.visits[2].output_tokens == 2


@pytest.mark.asyncio
async def test_only_a_load_has_a_bounded_queue():
    cold = StepModel(step_seconds=0.002, slots=1, queue_limit=1, load_seconds=0.5, loaded=False)
    async with serving(cold) as server, ollama.AsyncClient(server.url) as api:
        first = await asyncio.gather(*(stream(api) for _ in range(4)), return_exceptions=True)
        then = await asyncio.gather(*(stream(api) for _ in range(4)), return_exceptions=True)

    assert sum(isinstance(answer, ollama.ResponseError) for answer in first) == 2
    assert not any(isinstance(answer, Exception) for answer in then)
    starts = sorted(v.start for v in server.log.visits[4:])
    assert all(b - a >= 0.008 - 1e-9 for a, b in pairwise(starts))


def test_counters_are_what_llama_server_timed():
    text = RECORDED.read_text()
    found = [json.loads(timings) for timings in re.findall(r'"timings":(\{[^{}]*\})', text)]
    assert len(found) >= 6
    for document in found:
        rates = Timings(*(document[f"{n}"] for n in Timings.__slots__)).document()
        assert rates == pytest.approx(document)
        counters = Timings(*(document[n] for n in Timings.__slots__)).ollama_counters()
        assert counters["prompt_eval_count"] == document["cache_n"] + document["prompt_n"]
        assert counters["prompt_eval_duration"] == round(document["prompt_ms"] * 1e6)
        assert counters["eval_count"] == document["predicted_n"]
        assert counters["eval_duration"] == round(document["predicted_ms"] * 1e6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), (5, 5.0), (0.0, 0.0), (-1, -1.0), ("0", 0.0), ("10m", 600.0), ("1h30m", 5400.0),
     ("-1m", -60.0), ("1.5s", 1.5), ("300ms", 0.3)],
)  # fmt: skip
def test_keep_alive(given, expected):
    assert seconds(given) == expected


@pytest.mark.parametrize("given", ["300", "ten", "5 m", "", "m"])
def test_a_keep_alive_that_is_no_duration_is_refused(given):
    with pytest.raises(BackendError, match="invalid duration"):
        seconds(given)


def _get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def _post(url, body):
    with urllib.request.urlopen(url, body.encode()) as answer:
        return answer.read().splitlines()


def _status(url, body):
    try:
        with urllib.request.urlopen(url, body.encode()) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)
