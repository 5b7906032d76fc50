"""vLLM on the processor as it is: counts, what sleeps, and what is killed.

Its time is not held against anything here: on few cores its engine starves the process that
answers, so that a client sees tokens later, and in larger pieces, than they were made.
"""

import json
import re
import time
from statistics import median

import psutil
import pytest

from contract.rundir import Run, find_run

pytestmark = pytest.mark.vllm
ISL, OSL = 32, 24
SHAPE = ("--isl", ISL, "--osl", OSL)


@pytest.fixture(scope="module")
def engine(start_vllm):
    """One for all tests that leave it as it was."""
    with start_vllm() as engine:
        yield engine


@pytest.fixture
def asleep(engine):
    """The same, paused: it answers 200 and its head, and then nothing until it is woken."""
    engine.post("/sleep?level=1")
    assert json.loads(engine.get("/is_sleeping"))["is_sleeping"]
    yield engine
    engine.post("/wake_up")


def counters(engine, *names):
    """Totals of its own `/metrics`."""
    text = engine.get("/metrics").decode()
    return [float(re.search(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", text, re.M)[1]) for name in names]


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_every_token_is_counted_in_a_closed_loop(drive, engine, endpoint):
    names = ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_hits_total")
    before = counters(engine, *names)
    run, records = drive(
        engine, *SHAPE, "--endpoint", endpoint, "--agents", "1,2,4", "--request-count", 12
    )
    prompted, generated, cached = (
        now - then for now, then in zip(counters(engine, *names), before, strict=True)
    )
    assert run.status == "complete"
    assert {(record.outcome, record.finish_reason) for record in records} == {("ok", "length")}
    assert {record.output_source for record in records} == {"server"}
    assert {record.output_tokens for record in records} == {OSL}
    assert sum(record.output_tokens for record in records) == generated
    assert sum(record.prompt_tokens for record in records) == prompted
    assert cached == 0
    assert not any(record.server.cached_prompt_tokens for record in records if record.server)
    assert not any(record.server.load for record in records if record.server)
    assert len({record.prompt_tokens for record in records}) == 1
    for stage in run.stages:
        measured = [r for r in records if r.stage == stage.stage and r.phase == "measured"]
        assert len(measured) >= 12
        print(f"{endpoint}, {stage.key.agents} agents: e2e "
              f"{1e3 * median(r.latency for r in measured):.0f} ms, "
              f"{sum(r.chunks for r in measured) / len(measured):.1f} chunks")  # fmt: skip


def test_check_finds_it_ready(cli, engine):
    done = cli("loadgen", "check", "--backend", "vllm", "--base-url", engine.url, "--json")
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def test_asleep_it_lets_requests_time_out(cli, asleep, tmp_path, error_line):
    done = cli(*asleep.run, *SHAPE, "--agents", 2, "--request-count", 3, "--timeout", 2)
    assert "timed_out" in error_line(done, 3)
    records = list(Run.open(find_run(tmp_path / "runs", "latest")).records())
    assert {record.outcome for record in records} == {"timed_out"}
    assert {record.first_token for record in records} == {None}
    assert not any(record.server and record.server.load for record in records)


def test_only_the_request_that_waited_for_it_to_wake_has_a_load(start, asleep, tmp_path):
    running = start(*asleep.run, *SHAPE, "--agents", 1, "--request-count", 4)
    for line in running.stderr:
        if line.startswith("stage 1"):
            break
    time.sleep(1)  # what its first request waits for, as it would for weights
    asleep.post("/wake_up")
    assert running.wait(60) == 0
    records = list(Run.open(find_run(tmp_path / "runs", "latest")).records())
    first, *others = sorted(records, key=lambda record: record.due)
    assert 0.9 < first.server.load < first.ttft
    assert len(others) >= 4
    assert not any(record.server and record.server.load for record in others)


@pytest.mark.parametrize("killed", ["the engine", "what answers"])
def test_killed_it_ends_the_run_as_partial(start_vllm, broken_off, killed):
    with start_vllm() as engine:
        parent = psutil.Process(engine.process.pid)
        (core,) = [p for p in parent.children() if "EngineCore" in "".join(p.cmdline())]
        pid = core.pid if killed == "the engine" else parent.pid
        records = broken_off(engine, pid, *SHAPE, "--agents", 4, "--duration", 12)
    outcomes = [record.outcome for record in records]
    # Without its engine it still says so, in the streams and in what it refuses after them.
    word = "server_error" if killed == "the engine" else "bad_stream"
    alive = outcomes.index(word)
    assert alive >= 8
    assert set(outcomes[:alive]) == {"ok"}
    assert set(outcomes[alive:]) == {word, "unreachable"}
