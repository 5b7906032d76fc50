"""A whole run inside this process, against a server that is scripted in the same event loop."""

import asyncio
import signal

import pytest

from contract.config import validate
from contract.rundir import Run
from loadgen.backends import BACKENDS
from loadgen.conduct import Conduct
from loadgen.config import RunConfig
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from loadgen.signals import ENDING

pytestmark = pytest.mark.asyncio


def conduct_of(url, folder, **more):
    """A run against the server at `url`, which keeps its files in `folder`."""
    document = {
        "backend": {"kind": "openai", "base_url": url},
        "model": "tiny", "isl": 8, "osl": 4, "metrics_port": 0, "output_dir": str(folder), **more,
    }  # fmt: skip
    config = validate(RunConfig, document)
    return Conduct(config, BACKENDS["openai"].build(config))


async def test_a_run_leaves_signals_and_tasks_as_it_found_them(tmp_path):
    before, tasks = {number: signal.getsignal(number) for number in ENDING}, asyncio.all_tasks()
    async with FakeServer(Script(service_seconds=0.01)) as server:
        path = await conduct_of(server.url, tmp_path, agents=2, request_count=10).run()
    assert asyncio.all_tasks() == tasks
    assert {number: signal.getsignal(number) for number in ENDING} == before
    assert Run.open(path).status == "complete"
