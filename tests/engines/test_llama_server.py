"""llama.cpp's llama-server as it is: counts, times, cold starts, and its sudden death."""

import asyncio
import json
import re
import time
from statistics import median

import pytest

from loadgen.backends import BACKENDS
from loadgen.backends.base import Request
from loadgen.config import RunConfig
from loadgen.stopwatch import Stopwatch
from loadgen.workload.words import WORDS

ISL, OSL, SLOTS = 64, 48, 4
ENDPOINTS = ("native", "completions", "chat")
SHAPE = ("--isl", ISL, "--osl", OSL)

pytestmark = pytest.mark.engine


def counters(engine):
    """The server's own totals: prompt tokens it evaluated, tokens it generated."""
    text = engine.get("/metrics").decode()
    names = ("prompt_tokens_total", "tokens_predicted_total")
    return [float(re.search(rf"^llamacpp:{name} (\S+)$", text, re.M)[1]) for name in names]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_token_is_counted_and_no_closed_connection_fails_a_request(
    drive, llama_server, endpoint
):
    engine = llama_server("tiny", "-np", SLOTS)
    before = counters(engine)
    counted = ("--agents", "1,4,8", "--request-count", 30)
    run, records = drive(engine, *SHAPE, "--endpoint", endpoint, *counted)
    evaluated, generated = (now - then for now, then in zip(counters(engine), before, strict=True))
    assert run.status == "complete"
    assert {(record.outcome, record.finish_reason) for record in records} == {("ok", "length")}
    assert {record.output_source for record in records} == {"server"}
    assert sum(record.output_tokens for record in records) == generated
    assert sum(record.prompt_tokens for record in records) == evaluated
    assert {record.output_tokens for record in records} == {OSL}
    # Every token of this model is text of its own.
    assert {record.chunks for record in records} == {OSL}
    assert not any(record.counted_chunks for record in records)
    # It announces to keep its connections and closes each after a stream: what was not connected
    # before a stage is connected for the request, or found closed and tried once more.
    assert {record.retries for record in records} <= {0, 1}
    assert all(r.connect is not None for r in records if r.retries)
    fresh = sum(record.connect is not None for record in records)
    assert fresh >= len(records) - (1 + 4 + 8)
    assert not any(record.server.load for record in records)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_latency_is_what_the_server_says_and_little_more(drive, llama_server, endpoint):
    engine = llama_server("small", "-np", SLOTS)
    # Its timings begin with the step that takes the prompt in; the wait for the step in progress,
    # at worst another one's prefill, is in none of them: short prompts, agents not in step.
    short = ("--isl", 8, "--osl", 96, "--think", "exponential(0.1)")
    counted = ("--agents", "1,2,4", "--request-count", 8)
    _, records = drive(engine, "--endpoint", endpoint, *short, *counted)
    for agents in (1, 2, 4):
        measured = [r for r in records if r.agents == agents and r.phase == "measured"]
        own = [r.server.prefill + r.server.decode for r in measured]
        beyond = [r.latency - said for r, said in zip(measured, own, strict=True)]
        print(f"{endpoint}, {agents} agents: server {median(own) * 1e3:.1f} ms, "
              f"client + {median(beyond) * 1e3:.2f} ms")  # fmt: skip
        assert -0.001 <= median(beyond) <= max(0.05 * median(own), 0.020)
        assert all(r.ttft >= r.server.prefill - 0.001 for r in measured)


@pytest.mark.parametrize("endpoint", ["native", "chat"])
def test_only_the_request_that_wakes_a_sleeping_server_has_a_load(
    drive, llama_server, wait_until, endpoint
):
    engine = llama_server("small", "-np", SLOTS, "--sleep-idle-seconds", 1)
    wait_until(lambda: json.loads(engine.get("/props"))["is_sleeping"])
    run, records = drive(
        engine, *SHAPE, "--endpoint", endpoint, "--agents", 1, "--request-count", 5
    )
    first, *others = sorted(records, key=lambda record: record.due)
    print(f"{endpoint}: load {first.server.load * 1e3:.0f} ms of a TTFT of {first.ttft * 1e3:.0f}; "
          f"warm TTFT {median(r.ttft for r in others) * 1e3:.0f} ms")  # fmt: skip
    beyond = [record.ttft - record.server.prefill for record in others]
    assert median(beyond) < first.server.load < first.ttft
    assert [record.server.load for record in others] == [None] * len(others)
    assert run.status == "complete"


def test_a_killed_engine_ends_the_run_as_partial_and_its_records_stay(llama_server, broken_off):
    engine = llama_server("small", "-np", SLOTS)
    load = (*SHAPE, "--agents", "2,4", "--duration", 8)
    records = broken_off(engine, engine.process.pid, *load)
    outcomes = [record.outcome for record in records]
    alive = outcomes.index("bad_stream")
    assert alive >= 8
    assert set(outcomes[:alive]) == {"ok"}
    # What was in flight broke off; then nobody was there, and nobody was hammered.
    assert set(outcomes[alive:]) == {"bad_stream", "unreachable"}
    assert outcomes.count("bad_stream") <= 2
    assert len(outcomes) < alive + 40
    assert all(record.output_tokens == OSL for record in records[:alive])


def test_slots_that_were_erased_hold_nothing(llama_server, tmp_path):
    """With --cache-ram 0: else prompts that a slot let go of come back from memory."""
    engine = llama_server("tiny", "-np", 2, "--slot-save-path", tmp_path, "--cache-ram", 0)
    # 121 tokens, of which the last is always evaluated.
    assert asyncio.run(cached_around_a_reset(engine)) == (None, [0, 120, 0, 120])


def test_a_server_without_a_place_for_slots_says_what_it_wants(llama_server):
    engine = llama_server("tiny")
    why, _ = asyncio.run(cached_around_a_reset(engine))
    wanted = f"HTTP 501 from {engine.url}/slots/0?action=erase; it wants a server with"
    assert why == f"{wanted} --slot-save-path"


async def cached_around_a_reset(engine):
    """Why a reset failed, and the cached tokens of one prompt sent twice before and after it."""
    settings = {"kind": "llama-server", "base_url": engine.url, "cache_prompt": True}
    backend = BACKENDS["llama-server"].build(RunConfig.model_validate({"backend": settings}))
    await backend.open()
    request = Request(" ".join(WORDS[:60]), 4)

    async def cached():
        watch = Stopwatch(time.monotonic, time.monotonic())
        facts = await backend.perform(request, watch, 20)
        return facts.server.cached_prompt_tokens

    try:
        before = [await cached(), await cached()]
        why = await backend.reset_cache()
        return why, [*before, await cached(), await cached()]
    finally:
        await backend.close()
