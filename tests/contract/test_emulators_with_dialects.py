"""Every emulator driven by this project's own backends: counts, times and outcomes agree."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from contract.errors import ConfigError
from loadgen.backends import BACKENDS
from loadgen.backends.base import Request
from loadgen.backends.settings import RESETTABLE
from loadgen.config import RunConfig
from loadgen.fakes.emulator import PROTOCOLS, Served, emulator
from loadgen.fakes.script import Script
from loadgen.fakes.steps import StepModel
from loadgen.readiness import wait_ready
from loadgen.stopwatch import Ids, Stopwatch, record
from loadgen.workload.conversation_source import ConversationSource
from loadgen.workload.conversations import Conversations, SharedPrefix
from loadgen.workload.lengths import parse_lengths

pytestmark = pytest.mark.asyncio
ASK = Request(prompt="bada bade badi bado badu", output_tokens=6)
FAST = StepModel(step_seconds=0.004, prefill_token_seconds=0.001)
ROUTES = [
    ("openai", "completions"), ("openai", "chat"), ("vllm", "completions"), ("vllm", "chat"),
    ("ollama", "generate"), ("ollama", "chat"), ("tgi", "generate"), ("tgi", "chat"),
    ("llama-server", "native"), ("llama-server", "completions"), ("llama-server", "chat"),
]  # fmt: skip
every_route = pytest.mark.parametrize(("protocol", "endpoint"), ROUTES)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@asynccontextmanager
async def serving(protocol, endpoint=None, model=FAST, script=None, asked=None, **served):
    """An emulator, and the backend of that name after it has opened it."""
    async with emulator(protocol, model, Served(**served), script) as server:
        settings = {"kind": protocol, "base_url": server.url, **(asked or {})}
        if endpoint is not None:
            settings["endpoint"] = endpoint
        config = RunConfig.model_validate({"backend": settings})
        backend = BACKENDS[protocol].build(config)
        await backend.open()
        try:
            yield server, backend
        finally:
            await backend.close()


async def perform(backend, timeout=20.0, request=ASK):
    """One exchange's record."""
    watch = Stopwatch(time.monotonic, due=time.monotonic())
    facts = await backend.perform(request, watch, timeout)
    return record(watch, facts, Ids("r", 0, 1, 0, 0), "measured", time.monotonic())


async def ask(backend, request):
    """One exchange's facts."""
    return await backend.perform(request, Stopwatch(time.monotonic, time.monotonic()), 20.0)


@every_route
async def test_counts_and_instants_are_the_servers(protocol, endpoint):
    async with serving(protocol, endpoint) as (server, backend):
        got = await perform(backend)

    (visit,) = server.log.visits
    assert (got.outcome, got.finish_reason) == ("ok", "length")
    assert (got.prompt_tokens, got.output_tokens) == (visit.prompt_tokens, visit.output_tokens)
    assert got.output_tokens == 6
    # Nothing is received before it is made; and the server made it when its law says.
    assert visit.first <= got.first_token
    assert visit.last <= got.last_token
    prefill = 0.004 + 0.001 * visit.prompt_tokens
    assert visit.first - visit.start == pytest.approx(prefill)
    assert visit.last - visit.first == pytest.approx(5 * 0.004)


CHATS = [(protocol, endpoint) for protocol, endpoint in ROUTES if endpoint == "chat"]


@pytest.mark.parametrize(("protocol", "endpoint"), [c for c in CHATS if c[0] != "tgi"])
async def test_reasoning_comes_before_the_answer(protocol, endpoint):
    async with serving(protocol, endpoint, reasoning=4) as (server, backend):
        got = await perform(backend)
        facts = await ask(backend, replace(ASK, wants_text=True))

    visit = server.log.visits[0]
    assert (got.chunks, got.output_tokens) == (6, 6)
    assert visit.first + 4 * 0.004 - 1e-9 <= got.first_answer <= got.last_token
    assert got.first_token < got.first_answer
    assert len(facts.text.split()) == 2


@every_route
async def test_only_a_chat_reasons(protocol, endpoint):
    if protocol == "tgi":
        with pytest.raises(ConfigError, match="--reasoning: tgi has no reasoning apart"):
            emulator(protocol, FAST, Served(reasoning=4))
        return
    async with serving(protocol, endpoint, reasoning=4, asked={"streaming": False}) as (_, backend):
        facts = await ask(backend, replace(ASK, wants_text=True))
    async with serving(protocol, endpoint, reasoning=4) as (_, backend):
        got = await perform(backend)

    chat = endpoint == "chat"
    assert len(facts.text.split()) == (2 if chat else 6)
    assert (got.first_answer is not None) == chat


@every_route
async def test_of_an_answer_in_one_piece_the_end_and_the_counts_are_known(protocol, endpoint):
    async with serving(protocol, endpoint, asked={"streaming": False}) as (server, backend):
        got = await perform(backend)

    (visit,) = server.log.visits
    assert (got.outcome, got.finish_reason) == ("ok", "length")
    assert (got.prompt_tokens, got.output_tokens) == (visit.prompt_tokens, visit.output_tokens)
    assert (got.first_token, got.ttft, got.tpot, got.chunks) == (None, None, None, 0)
    assert visit.last <= got.last_token
    assert got.latency >= visit.last - visit.arrival


@every_route
async def test_what_a_server_is_told_to_sample_it_takes(protocol, endpoint):
    asked = {
        "temperature": 0.7,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "extra_body": {"user": "x"},
    }
    async with serving(protocol, endpoint, asked=asked) as (_, backend):
        assert (await perform(backend)).outcome == "ok"


@every_route
async def test_a_conversation_holds_what_the_server_said(protocol, endpoint):
    lengths = [parse_lengths(text) for text in ("2", "12", "4", "6")]
    source = ConversationSource(Conversations(*lengths, prefix=SharedPrefix(5)))
    async with serving(protocol, endpoint) as (server, backend):
        for seq in range(2):
            request = source.request(1, 0, seq)
            facts = await ask(backend, request)
            source.answered(Ids("r", 1, 1, 0, seq), request, facts)

    first, second = server.log.visits
    own = first.prompt_tokens - 12  # a token of its own in front, on some
    assert own in (0, 1)
    assert len(facts.text.split()) == 6
    assert second.prompt_tokens == own + 12 + 6 + 4
    assert len(request.messages) == 4


@every_protocol
async def test_every_request_carries_its_id(protocol):
    async with serving(protocol) as (server, backend):
        await ask(backend, replace(ASK, id="run-1-0-7"))
        await ask(backend, ASK)

    assert [visit.request_id for visit in server.log.visits] == ["run-1-0-7", None]


@every_protocol
async def test_an_early_stop(protocol):
    async with serving(protocol, stop_after=3) as (server, backend):
        got = await perform(backend)

    exact = protocol in ("vllm", "llama-server")  # these can be told to go on
    assert got.outcome == "ok"
    assert got.finish_reason == ("length" if exact else "stop")
    assert got.output_tokens == server.log.visits[-1].output_tokens == (6 if exact else 3)


@pytest.mark.parametrize("protocol", ["ollama", "llama-server"])
async def test_what_the_server_reports_of_its_time(protocol):
    async with serving(protocol) as (server, backend):
        got = await perform(backend)

    (visit,) = server.log.visits
    assert got.server.prefill == pytest.approx(visit.first - visit.start, abs=1e-6)
    assert got.server.decode == pytest.approx(visit.last - visit.first, abs=1e-6)
    assert got.server.load is None


@pytest.mark.parametrize("protocol", ["ollama", "llama-server"])
async def test_a_cold_start_is_known_by_evidence(protocol):
    model = StepModel(step_seconds=0.004, load_seconds=0.3, loaded=False)
    async with serving(protocol, model=model) as (_, backend):
        cold, warm = await perform(backend), await perform(backend)

    assert 0.29 <= cold.server.load < 3
    assert warm.server.load is None


@every_protocol
@pytest.mark.parametrize(
    ("failure", "outcomes"),
    [
        ("error_event", {"server_error"}),
        ("cut", {"bad_stream"}),
        ("reset", {"bad_stream"}),
        ("not_json", {"bad_stream"}),
        ("no_finish", {"truncated"}),
        ("internal", {"server_error"}),
        ("busy", {"rejected"}),
        ("rate_limit", {"rejected"}),
        ("html", {"bad_stream"}),
        ("drop", {"bad_stream", "unreachable"}),
    ],
)
async def test_failures_have_their_outcomes(protocol, failure, outcomes):
    async with serving(protocol, script=Script(always=failure)) as (server, backend):
        got = await perform(backend)

    if (protocol, failure) == ("llama-server", "busy"):  # says 503 without inviting to retry
        outcomes = {"server_error"}
    assert got.outcome in outcomes
    if failure not in ("busy", "rate_limit", "internal", "html", "drop", "no_finish"):
        assert server.log.visits[-1].output_tokens == 3


@every_protocol
async def test_a_silent_server_is_timed_out(protocol):
    async with serving(protocol, script=Script(always="stall")) as (_, backend):
        got = await perform(backend, timeout=0.3)

    assert got.outcome == "timed_out"


@every_protocol
async def test_a_batch_slows_everyone_by_the_law(protocol):
    model = StepModel(step_seconds=0.04, sequence_seconds=0.01, slots=4)
    async with serving(protocol, model=model) as (server, backend):
        records = await asyncio.gather(*(perform(backend) for _ in range(4)))

    assert {one.outcome for one in records} == {"ok"}
    spans = [visit.last - visit.first for visit in server.log.visits]
    assert max(spans) > 5 * 0.05 + 0.009  # at least one step was shared
    assert max(spans) <= 5 * 0.08 + 1e-9
    assert min(spans) >= 5 * 0.05 - 1e-9


@pytest.mark.parametrize(
    ("protocol", "outcome"), [("vllm", "rejected"), ("openai", "rejected"), ("tgi", "rejected")]
)
async def test_a_full_queue_is_a_rejection(protocol, outcome):
    model = StepModel(step_seconds=0.05, slots=1, queue_limit=1)
    async with serving(protocol, model=model) as (_, backend):
        records = await asyncio.gather(*(perform(backend) for _ in range(5)))

    assert sorted(one.outcome for one in records) == ["ok"] * 2 + [outcome] * 3


@pytest.mark.parametrize("protocol", ["vllm", "llama-server", "ollama", "tgi"])
async def test_what_the_preflight_finds(protocol):
    async with emulator(protocol, FAST, Served(("tiny",), context=512)) as server:
        config = RunConfig.model_validate({"backend": {"kind": protocol, "base_url": server.url}})
        backend = BACKENDS[protocol].build(config)
        target = await backend.open()
        await backend.close()

    assert target.model in ("tiny", "tiny:latest")
    assert target.context_length == 512


@every_protocol
async def test_a_server_that_listens_is_ready(protocol):
    said = []
    async with emulator(protocol, FAST, Served()) as server:
        config = RunConfig.model_validate({"backend": {"kind": protocol, "base_url": server.url}})
        backend = BACKENDS[protocol].build(config)
        await wait_ready(backend, 5, said.append)
        assert (await backend.open()).model
        await backend.close()

    assert said == []


@pytest.mark.parametrize("protocol", RESETTABLE)
async def test_a_cache_that_was_reset_answers_nobody(protocol):
    model = replace(FAST, prefix_block=PROTOCOLS[protocol].prefix_block)
    told = {"cache_prompt": True} if protocol == "llama-server" else {}
    request = Request(prompt=" ".join(["bada"] * 64), output_tokens=2)
    async with emulator(protocol, model, Served()) as server:
        settings = {"kind": protocol, "base_url": server.url, **told}
        backend = BACKENDS[protocol].build(RunConfig.model_validate({"backend": settings}))
        await backend.open()
        cached = [await cached_tokens(backend, request) for _ in range(2)]
        assert await backend.reset_cache() is None
        cached += [await cached_tokens(backend, request) for _ in range(2)]
        await backend.close()

    assert cached[0] == cached[2] == 0
    assert cached[1] == cached[3] >= 48


async def cached_tokens(backend, request):
    """How many tokens of a prompt the server says it held already."""
    return (await ask(backend, request)).server.cached_prompt_tokens


async def test_whose_cache_can_be_reset_is_known_beforehand():
    able = []
    for kind in set(BACKENDS) - {"hf"}:
        config = RunConfig.model_validate({"backend": {"kind": kind}})
        backend = BACKENDS[kind].build(config)
        family = getattr(backend, "_family", None)
        able += [kind] if family is not None and family.reset is not None else []
    assert sorted(able) == sorted(RESETTABLE)
