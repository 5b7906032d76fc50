"""A whole run inside this process, against a server that is scripted in the same event loop."""

import asyncio
import json
import signal
import sys
from dataclasses import asdict

import pytest

from contract.config import validate
from contract.errors import TargetError
from contract.rundir import Run
from loadgen.backends import BACKENDS
from loadgen.conduct import Conduct
from loadgen.config import RunConfig
from loadgen.fakes.emulator import Served, emulator
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from loadgen.fakes.steps import StepModel
from loadgen.signals import ENDING

pytestmark = pytest.mark.asyncio


def conduct_of(url, folder, kind="openai", **more):
    """A run against the server at `url`, which keeps its files in `folder`."""
    document = {
        "backend": {"kind": kind, "base_url": url},
        "model": "tiny", "isl": 8, "osl": 4, "metrics_port": 0, "output_dir": str(folder), **more,
    }  # fmt: skip
    config = validate(RunConfig, document)
    return Conduct(config, BACKENDS[kind].build(config))


async def under_way(conduct, completions=20):
    """Wait until a stage has measured so many."""
    async with asyncio.timeout(30):
        # A run tells nobody how far it is: it is looked at, as the console does.
        while (stage := conduct.progress.stage) is None or stage.counts.measured < completions:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_run_leaves_signals_and_tasks_as_it_found_them(tmp_path):
    before, tasks = {number: signal.getsignal(number) for number in ENDING}, asyncio.all_tasks()
    async with FakeServer(Script(service_seconds=0.01)) as server:
        path = await conduct_of(server.url, tmp_path, agents=2, request_count=10).run()
    assert asyncio.all_tasks() == tasks
    assert {number: signal.getsignal(number) for number in ENDING} == before
    assert Run.open(path).status == "complete"


async def test_every_stage_tells_of_its_own_error(tmp_path):
    async with FakeServer(Script(service_seconds=0.01)) as server:
        path = await conduct_of(server.url, tmp_path, agents=[1, 2], request_count=20).run()
    stages = Run.open(path).stages
    summary = json.loads((path / "summary.json").read_text())
    for stage, told in zip(stages, summary["stages"], strict=True):
        error = stage.generator
        assert told["generator"] == asdict(error)
        assert 0 < error.declared < 1
        assert error.kernel_share == (1.0 if sys.platform == "linux" else 0.0)
        assert error.loop_lag_p99 > 0
        verdict = next(v for v in stage.verdicts if v.name == "generator")
        assert (verdict.checked, verdict.seen) == (True, error.declared)
    # Each counts its own reads alone: the second has twice the agents and as many requests.
    assert 20 <= stages[0].generator.reads < 20 * 20
    assert stages[1].generator.reads == pytest.approx(stages[0].generator.reads, rel=0.5)


async def test_a_target_that_dies_for_good_ends_the_run_partial_and_says_so(tmp_path):
    async with FakeServer(Script(service_seconds=0.02, slots=4)) as server:
        conduct = conduct_of(server.url, tmp_path, agents=[4, 8], duration=2.5)
        running = asyncio.create_task(conduct.run())
        await under_way(conduct)
    with pytest.raises(TargetError, match=r"went away in stage 1 \(4 agents\): the last \d+ req"):
        await running
    run = Run.open(conduct.path)
    (stage,) = run.stages
    assert (run.status, stage.complete, len(run.missing)) == ("partial", False, 1)
    assert "went away" in run.manifest.note
    assert stage.outcomes["ok"] >= 20
    assert stage.outcomes["unreachable"] >= 4
    records = list(run.records())
    assert len(records) == stage.sent
    assert {r.outcome for r in records} <= {"ok", "bad_stream", "unreachable"}


async def test_a_server_that_comes_back_within_a_second_is_survived(tmp_path):
    script = Script(service_seconds=0.02, slots=4)
    async with FakeServer(script) as server:
        conduct = conduct_of(server.url, tmp_path, agents=4, duration=4)
        running = asyncio.create_task(conduct.run())
        await under_way(conduct)
    went = conduct.clock()
    await asyncio.sleep(1.0)
    async with FakeServer(script, port=int(server.url.rpartition(":")[2])):
        came = conduct.clock()
        path = await running
    run = Run.open(path)
    (stage,) = run.stages
    assert (run.status, stage.complete) == ("complete", True)
    assert {v.name: v.ok for v in stage.verdicts}["failures"] is False
    lost = [r for r in run.records() if r.outcome != "ok"]
    # One of which nothing was heard is tried again, and refused.
    assert {"unreachable"} <= {r.outcome for r in lost} <= {"bad_stream", "unreachable"}
    assert all(went - 0.1 < r.ended < came + 0.1 for r in lost)
    # Pauses have doubled up to half a second by then, and no agent stays away.
    after = [r for r in run.records() if r.outcome == "ok" and r.due > came]
    assert {r.agent for r in after} == {0, 1, 2, 3}
    assert min(r.due for r in after) < came + 1.1


QUICK = {"agents": [1, 2], "request_count": 4, "reset_cache": True}


async def test_a_cache_is_reset_before_every_stage(tmp_path):
    async with emulator("vllm", StepModel(step_seconds=0.001), Served()) as server:
        resets = []
        page = server.front.page

        def hearing(call, pace):
            if call.path == "/reset_prefix_cache":
                resets.append((call.method, len(server.log.visits)))
            return page(call, pace)

        server.front.page = hearing
        path = await conduct_of(server.url, tmp_path, "vllm", **QUICK).run()
    assert resets == [("POST", 0), ("POST", Run.open(path).stages[0].sent)]
    assert Run.open(path).manifest.note is None


async def test_of_several_servers_all_are_reset_and_those_that_refuse_are_named(tmp_path):
    async with (
        emulator("vllm", StepModel(step_seconds=0.001), Served()) as able,
        FakeServer(Script(service_seconds=0.01)) as unable,
    ):
        conduct = conduct_of([able.url, unable.url], tmp_path, "vllm", **QUICK)
        run = Run.open(await conduct.run())
    assert f"stage 1, 2: HTTP 404 from {unable.url}/reset_prefix_cache;" in run.manifest.note
    assert able.url not in run.manifest.note


async def test_a_cache_that_cannot_be_reset_is_one_warning_and_a_note(tmp_path):
    said = []
    async with FakeServer(Script(service_seconds=0.01)) as server:
        conduct = conduct_of(server.url, tmp_path, "vllm", **QUICK)
        conduct.said = said.append
        run = Run.open(await conduct.run())
    why = (
        f"HTTP 404 from {server.url}/reset_prefix_cache; it wants a server with "
        "VLLM_SERVER_DEV_MODE=1"
    )
    assert [line for line in said if line.startswith("warning:")] == [
        f"warning: the prefix cache is not reset: {why}"
    ]
    assert run.status == "complete"
    assert run.manifest.note == f"prefix cache not reset before stage 1, 2: {why}"
