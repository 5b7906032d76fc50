"""One run over two servers, each scripted in the same event loop."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from contract.config import validate
from contract.errors import TargetError
from contract.rundir import Run
from loadgen.backends import BACKENDS
from loadgen.backends.base import Request, performed
from loadgen.conduct import Conduct
from loadgen.config import RunConfig
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from loadgen.stopwatch import Stopwatch

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def servers(*scripts):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeServer(script)) for script in scripts]


def config_of(urls, **more):
    backend = {"kind": "openai", "base_url": list(urls), **more.pop("backend", {})}
    document = {"backend": backend, "isl": 8, "osl": 4, "metrics_port": 0, **more}
    return validate(RunConfig, document)


def conduct_of(urls, folder, **more):
    config = config_of(urls, output_dir=str(folder), **more)
    return Conduct(config, BACKENDS["openai"].build(config))


async def opened(urls, **more):
    """The target that the preflight finds."""
    backend = BACKENDS["openai"].build(config_of(urls, **more))
    try:
        return await backend.open()
    finally:
        await backend.close()


def by_address(records):
    return Counter(record.address for record in records)


@pytest.mark.parametrize("client", ["wire", "aiohttp"])
async def test_in_turn_each_gets_its_half_and_the_records_say_which(tmp_path, client):
    script = Script(service_seconds=0.005, slots=4)
    async with servers(script, script) as (one, other):
        urls = [one.url, other.url]
        path = await conduct_of(
            urls, tmp_path, agents=3, request_count=40, backend={"client": client}
        ).run()
        visits = [len(server.log.visits) for server in (one, other)]
    run = Run.open(path)
    records = list(run.records())
    assert {record.outcome for record in records} == {"ok"}
    assert by_address(records) == {0: visits[0], 1: visits[1]}
    assert abs(visits[0] - visits[1]) <= 1
    server = run.manifest.server
    assert (server["addresses"], server["address"], server["remote"]) == (urls, None, False)
    assert (server["route"], server["version"]) == ("round-robin", "fake-1")


async def test_the_least_busy_route_sends_more_to_the_faster_one(tmp_path):
    slow, quick = Script(service_seconds=0.1, slots=8), Script(service_seconds=0.01, slots=8)
    async with servers(slow, quick) as (one, other):
        conduct = conduct_of([one.url, other.url], tmp_path, agents=4, request_count=100,
                             backend={"route": "least-busy"})  # fmt: skip
        run = Run.open(await conduct.run())
        assert by_address(run.records()) == {0: len(one.log.visits), 1: len(other.log.visits)}
    assert run.manifest.server["route"] == "least-busy"
    counts = by_address(record for record in run.records() if record.phase == "measured")
    assert counts[1] > 4 * counts[0] > 0


@pytest.mark.parametrize("route", ["round-robin", "least-busy"])
async def test_a_server_that_dies_leaves_the_other_at_work(tmp_path, route):
    """The first in order, to which a tie goes."""
    script = Script(service_seconds=0.02, slots=4)
    async with FakeServer(script) as survivor:
        async with FakeServer(script) as dying:
            conduct = conduct_of([dying.url, survivor.url], tmp_path, agents=4, duration=2.5,
                                 backend={"route": route})  # fmt: skip
            running = asyncio.create_task(conduct.run())
            async with asyncio.timeout(30):
                # A run tells nobody how far it is: it is looked at, as the console does.
                while not (stage := conduct.progress.stage) or stage.counts.measured < 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        went = conduct.clock()
        path = await running
    run = Run.open(path)
    (stage,) = run.stages
    assert (run.status, stage.complete) == ("complete", True)
    assert {v.name: v.ok for v in stage.verdicts}["failures"] is False
    after = [record for record in run.records() if record.due > went]
    assert {r.outcome for r in after if r.address == 0} == {"unreachable"}
    assert {r.outcome for r in after if r.address == 1} == {"ok"}
    assert sum(r.address == 1 for r in after) > 20


async def test_a_model_on_some_of_them_only_is_missed_by_address():
    async with servers(Script(models=("tiny",)), Script(models=("small", "large"))) as (one, other):
        urls = [one.url, other.url]
        with pytest.raises(TargetError) as caught:
            await opened(urls)
        assert str(caught.value).startswith(f"{other.url} does not serve model 'tiny'")
        assert "models there: small, large" in str(caught.value)
        with pytest.raises(TargetError, match=f"^{one.url} does not serve model 'small'"):
            await opened(urls, model="small")
        with pytest.raises(TargetError) as caught:
            await opened(urls, model="other")
        assert all(f"{url} does not serve model 'other'" in str(caught.value) for url in urls)


async def test_the_only_model_of_the_first_is_asked_of_all():
    async with servers(Script(models=("tiny",)), Script(models=("small", "tiny"))) as (one, other):
        target = await opened([one.url, other.url])
    assert (target.model, target.models) == ("tiny", ("tiny",))
    assert target.addresses == (one.url, other.url)


async def test_what_they_differ_in_is_warned_of_and_not_claimed(tmp_path):
    lines = []
    async with servers(Script(service_seconds=0.001), Script(service_seconds=0.001)) as (
        one,
        other,
    ):
        one.front.context, other.front.context = 4096, 8192
        conduct = conduct_of([one.url, other.url], tmp_path, agents=1, request_count=4)
        conduct.said = lines.append
        run = Run.open(await conduct.run())
    assert [line for line in lines if line.startswith("warning:")] == [
        "warning: the servers differ in context length: 4096, 8192"
    ]
    assert run.manifest.model["context_length"] is None
    assert run.manifest.server["differ"] == {"context_length": [4096, 8192]}


async def test_one_that_is_not_there_when_the_run_begins_is_named(free_port):
    gone = f"http://127.0.0.1:{free_port}"
    async with FakeServer(Script()) as server:
        with pytest.raises(TargetError, match=f"^no server at {gone} "):
            await opened([server.url, gone])


async def test_the_stamps_of_all_are_one_statistic():
    script = Script(service_seconds=0.001)
    async with servers(script, script) as (one, other):
        backend = BACKENDS["openai"].build(config_of([one.url, other.url]))
        assert backend.stamps.kernel_share is None
        await backend.open()
        before = backend.stamps
        for _ in range(4):
            watch = Stopwatch(asyncio.get_running_loop().time, due=0.0)
            assert (await performed(backend, Request("a b c", 2), watch, 20.0)).outcome == "ok"
        apart = [each.stamps for each in backend.backends]
        total = backend.stamps
        await backend.close()
    assert total.kernel + total.user > before.kernel + before.user
    assert total.kernel + total.user == sum(s.kernel + s.user for s in apart)
    assert all(s.kernel + s.user for s in apart)
