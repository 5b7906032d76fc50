"""The scripted server as the official OpenAI client sees it, and its own log."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from itertools import pairwise

import openai
import pytest

from contract.errors import ConfigError
from loadgen.fakes.openai_server import parser, script
from loadgen.fakes.script import FAILURES, Script
from loadgen.fakes.server import FakeServer

ASK = {"model": "tiny", "prompt": "bada bade badi", "max_tokens": 5}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "bada"}], "max_tokens": 3}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def client(server):
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


async def ask(api, **more):
    """All chunks of a streamed completion."""
    return [chunk async for chunk in await api.completions.create(**ASK, **more)]


async def until(condition):
    """Wait for a condition that another task makes true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_models_and_whole_answers():
    async with FakeServer(Script(models=("tiny", "small"))) as server, client(server) as api:
        names = [model.id async for model in api.models.list()]
        text = await api.completions.create(**ASK)
        chat = await api.chat.completions.create(**CHAT)

    assert names == ["tiny", "small"]
    assert len(text.choices[0].text.split()) == 5
    assert text.choices[0].finish_reason == "length"
    assert (text.usage.prompt_tokens, text.usage.completion_tokens) == (3, 5)
    assert len(chat.choices[0].message.content.split()) == 3
    assert chat.choices[0].message.role == "assistant"


@pytest.mark.asyncio
async def test_a_streamed_completion():
    async with FakeServer(Script(tokens_per_chunk=2)) as server, client(server) as api:
        *chunks, last = await ask(api, **USAGE)

    texts = [chunk.choices[0].text for chunk in chunks]
    assert [len(text.split()) for text in texts] == [2, 2, 1]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]
    assert (last.choices, last.usage.total_tokens) == ([], 8)


@pytest.mark.asyncio
async def test_a_streamed_chat_opens_with_its_role():
    async with FakeServer() as server, client(server) as api:
        stream = await api.chat.completions.create(**CHAT, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]

    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert [bool(delta.content) for delta in deltas[1:]] == [True] * 3


@pytest.mark.asyncio
async def test_usage_comes_only_when_asked_for_and_switched_on():
    async with FakeServer() as server, client(server) as api:
        assert all(chunk.usage is None for chunk in await ask(api, stream=True))
    async with FakeServer(Script(usage=False)) as server, client(server) as api:
        assert all(chunk.usage is None for chunk in await ask(api, **USAGE))


@pytest.mark.asyncio
async def test_failures_are_the_clients_own_errors():
    failures = dict(enumerate(["rate_limit", "busy", "internal", "error_event"]))
    async with FakeServer(Script(failures=failures)) as server, client(server) as api:
        with pytest.raises(openai.RateLimitError):
            await ask(api, stream=True)
        with pytest.raises(openai.InternalServerError, match="503"):
            await ask(api, stream=True)
        with pytest.raises(openai.InternalServerError, match="500"):
            await ask(api, stream=True)
        with pytest.raises(openai.APIError, match="The engine died"):
            await ask(api, stream=True)
        with pytest.raises(openai.NotFoundError, match="`nope` does not exist"):
            await api.completions.create(**ASK | {"model": "nope"})
        with pytest.raises(openai.BadRequestError, match="at least 1, got 0"):
            await api.completions.create(**ASK | {"max_tokens": 0})

    outcomes = [visit.outcome for visit in server.log.visits]
    assert outcomes == ["rate_limit", "busy", "internal", "error_event", "rejected", "rejected"]


@pytest.mark.asyncio
async def test_a_freed_slot_passes_to_the_longest_waiting_at_once():
    async with FakeServer(Script(service_seconds=0.005)) as server, client(server) as api:

        async def agent():
            for _ in range(5):
                await ask(api, stream=True)

        await asyncio.gather(*(agent() for _ in range(4)))

    visits = server.log.visits
    assert len(visits) == 20
    assert [v.start for v in visits] == sorted(v.start for v in visits)
    assert all(v.service_seconds >= 0.005 for v in visits)
    # With someone waiting, one service begins at the very instant at which the last one ends.
    waited = [(a, b) for a, b in pairwise(visits) if b.arrival < a.end]
    assert len(waited) >= 10
    assert all(b.start == a.end for a, b in waited)
    assert server.log.in_flight_max == 4
    assert 2 < server.log.in_flight_average() <= 4


@pytest.mark.asyncio
async def test_as_many_are_served_at_once_as_there_are_slots():
    async with FakeServer(Script(slots=3, service_seconds=0.02)) as server, client(server) as api:
        await asyncio.gather(*(ask(api, stream=True) for _ in range(9)))

    spans = [(v.start, v.end) for v in server.log.visits]
    busy = [sum(start <= at < end for start, end in spans) for at, _ in spans]
    assert max(busy) == 3


@pytest.mark.asyncio
async def test_a_full_queue_refuses():
    plan = Script(service_seconds=0.02, queue_limit=1)
    async with FakeServer(plan) as server, client(server) as api:
        answers = await asyncio.gather(
            *(ask(api, stream=True) for _ in range(4)), return_exceptions=True
        )

    assert sum(isinstance(answer, list) for answer in answers) == 2
    assert sum(isinstance(answer, openai.InternalServerError) for answer in answers) == 2
    assert [v.service_seconds is None for v in server.log.visits] == [False, False, True, True]


@pytest.mark.asyncio
async def test_a_request_whose_client_left_the_queue_is_not_served():
    async with FakeServer(Script(failures={0: "stall"})) as server, client(server) as api:
        first = asyncio.create_task(ask(api, stream=True))
        await until(lambda: server.log.visits and server.log.visits[0].start)
        second = asyncio.create_task(ask(api, stream=True))
        await until(lambda: len(server.log.visits) == 2)
        for task in (second, first):
            task.cancel()
            await asyncio.wait([task])
        await until(lambda: server.log.in_flight == 0)

    assert server.log.visits[1].outcome == "gone"
    assert server.log.visits[1].start is None


def test_jitter_is_drawn_again_alike():
    plan = Script(service_seconds=0.1, jitter=0.5, seed=3)

    services = [plan.service(index, 8)[1] for index in range(50)]

    assert services == [plan.service(index, 8)[1] for index in range(50)]
    assert len(set(services)) == 50
    assert all(0.05 <= service <= 0.15 for service in services)


@pytest.mark.parametrize(
    ("plan", "tokens", "expected"),
    [
        (Script(service_seconds=0.1), 8, (0.02, 0.1)),
        (Script(service_seconds=0.1), 1, (0.1, 0.1)),
        (Script(prefill_seconds=0.05, token_seconds=0.01), 8, (0.05, 0.13)),
    ],
)
def test_service_times(plan, tokens, expected):
    assert plan.service(0, tokens) == pytest.approx(expected)


def test_the_command_line_describes_a_script():
    text = "--slots 3 --model a --model b --fail 2=cut --fail all=stall --queue-limit 4 --no-usage"

    plan = script(parser().parse_args(text.split()))

    assert (plan.slots, plan.models, plan.queue_limit, plan.usage) == (3, ("a", "b"), 4, False)
    assert plan.service_seconds == 0.1
    assert (plan.failure(2), plan.failure(3)) == ("cut", "stall")


@pytest.mark.parametrize("given", ["2=cutt", "x=cut", "cut"])
def test_an_unknown_failure_is_refused(given):
    with pytest.raises(ConfigError, match="--fail"):
        script(parser().parse_args(["--fail", given]))


def test_every_failure_is_explained_in_the_help():
    text = parser().format_help()

    assert all(f"  {name} " in text for name in FAILURES)


def test_the_command_serves_until_it_is_told_to_stop():
    command = [sys.executable, "-m", "loadgen.fakes.openai_server", "--service-seconds", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline().split()
            assert said[:2] == ["listening", "on"]
            body = json.dumps(ASK).encode()
            with urllib.request.urlopen(f"{said[2]}/v1/completions", body) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 5
            with urllib.request.urlopen(f"{said[2]}/fake/log") as page:
                log = json.load(page)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143

    assert [r["outcome"] for r in log["requests"]] == ["ok"]
    assert log["requests"][0]["service_seconds"] >= 0.01
    assert log["mean_service_seconds"] == log["requests"][0]["service_seconds"]
