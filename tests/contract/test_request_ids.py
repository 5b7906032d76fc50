"""The id of a request goes out with it, whichever client carries it, unless the user names one."""

import time

import pytest

from loadgen.backends.base import Request
from loadgen.backends.openai import OpenAiDialect
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from loadgen.stopwatch import Stopwatch
from loadgen.wire import ServerBackend, WireOptions

pytestmark = pytest.mark.asyncio
clients = pytest.mark.parametrize("client", ["wire", "aiohttp"])


async def seen(options, ids):
    """The X-Request-Id of each request as the server read it; the model is believed."""
    async with FakeServer(Script(service_seconds=0.001)) as server:
        backend = ServerBackend(OpenAiDialect(), server.url, "tiny", options=options)
        backend.connect()
        for name in ids:
            watch = Stopwatch(time.monotonic, due=time.monotonic())
            await backend.perform(Request("bada", 2, id=name), watch, 20.0)
        await backend.close()
        return [visit.request_id for visit in server.log.visits]


@clients
async def test_each_request_has_its_own(client):
    ids = ["run-1-0-0", "run-1-0-1", ""]
    assert await seen(WireOptions(client=client), ids) == ["run-1-0-0", "run-1-0-1", None]


@clients
async def test_the_users_header_wins(client):
    options = WireOptions(client=client, headers={"x-request-id": "mine"})
    assert await seen(options, ["run-1-0-0"]) == ["mine"]
