"""A real OpenAI-compatible server, `transformers serve`: counts, no unproven load, its end."""

import asyncio
import json
import time

import pytest

from contract.rundir import Run, find_run
from loadgen.backends.base import Request
from loadgen.backends.openai import PATHS, OpenAiDialect
from loadgen.stopwatch import Stopwatch
from loadgen.wire import ServerBackend
from loadgen.workload.words import WORDS

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_real_server_is_driven_by_one_to_four_agents(cli, transformers_serve, tmp_path, endpoint):
    shape = ("--endpoint", endpoint, "--isl", 16, "--osl", 12)
    done = cli(*transformers_serve.run, *shape, "--agents", "1..4", "--duration", 4, "--json")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["agents"] for stage in stages] == [1, 2, 3, 4]
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert run.status == "complete"
    records = list(run.records())
    assert {record.outcome for record in records} == {"ok"}
    assert {record.output_source for record in records} == {"server"}
    assert {record.output_tokens for record in records} <= set(range(1, 13))
    for stage in stages:
        assert stage["outcomes"]["ok"] >= 4
        assert stage["in_flight"] == pytest.approx(stage["agents"], rel=0.1)
        assert stage["ttft"]["p50"] < stage["e2e"]["p50"]
    # It serves one request at a time: with four agents the others wait for their first token.
    assert stages[3]["ttft"]["p50"] > 2 * stages[0]["ttft"]["p50"]
    assert not any(record.server and record.server.load for record in records)


async def streamed(engine, request, endpoint):
    """The facts of one request, streamed."""
    backend = ServerBackend(OpenAiDialect("openai", endpoint), engine.url, "models/tiny")
    backend.connect()
    try:
        return await backend.perform(request, Stopwatch(time.monotonic, time.monotonic()), 60)
    finally:
        await backend.close()


def test_its_counts_are_those_it_gives_without_a_stream(transformers_serve):
    engine = transformers_serve
    # The first request of all loads the model, and nothing in its answer is evidence of that.
    cold = asyncio.run(streamed(engine, Request("hi", 2), "completions"))
    assert cold.outcome == "ok"
    assert cold.server is None or cold.server.load is None
    loaded = engine.post("/load_model", b'{"model": "models/tiny"}').decode().splitlines()
    assert [json.loads(said[5:])["cached"] for said in loaded if "ready" in said] == [True]
    for endpoint in PATHS:
        dialect = OpenAiDialect("openai", endpoint)
        for words in (5, 40):
            request = Request(" ".join(WORDS[:words]), 9)
            facts = asyncio.run(streamed(engine, request, endpoint))
            body = json.loads(dialect.render(request, "models/tiny").body)
            plain = {k: v for k, v in body.items() if k != "stream_options"} | {"stream": False}
            usage = json.loads(engine.post(PATHS[endpoint], json.dumps(plain).encode()))["usage"]
            assert (facts.outcome, facts.output_source) == ("ok", "server")
            assert facts.prompt_tokens == usage["prompt_tokens"] >= words
            assert facts.output_tokens == usage["completion_tokens"]
            assert facts.server is None or facts.server.load is None


def test_killed_it_breaks_off_what_was_in_flight_and_is_then_unreachable(
    transformers_serve, broken_off
):
    load = ("--isl", 16, "--osl", 48, "--agents", 2, "--duration", 8)
    records = broken_off(transformers_serve, transformers_serve.process.pid, *load)
    outcomes = [record.outcome for record in records]
    alive = outcomes.index("bad_stream")
    assert alive >= 8
    assert set(outcomes[:alive]) == {"ok"}
    assert set(outcomes[alive:]) == {"bad_stream", "unreachable"}
    assert outcomes.count("bad_stream") <= 2
