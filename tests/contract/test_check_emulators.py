"""`loadgen check` against every emulator: what the screen says is what they are."""

import asyncio
import json

import pytest

from contract.config import validate
from contract.errors import TargetError
from loadgen.commands.check import check
from loadgen.config import RunConfig
from loadgen.fakes.emulator import PROTOCOLS, Served, emulator
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from loadgen.fakes.steps import StepModel

# Prefills that tell a cached prompt from a fresh one, whatever else this machine does.
SLOW = {"step_seconds": 0.005, "prefill_token_seconds": 0.0005}
FOUND = {
    "vllm": ("fake-1", "yes: 240 of 256 prompt tokens cached"),
    "openai": ("fake-1", "unknown: the server reports neither cached tokens nor prefill"),
    "ollama": ("0.0.0-fake", "yes: prefill 1"),
    "tgi": ("fake-1", "unknown: the server reports neither cached tokens nor prefill"),
    "llama-server": ("fake-1", "yes: 256 of 257 prompt tokens cached"),
}


def checked(capsys, *servers, kind="openai", **settings):
    """The document of a check of these servers, which run for it, and how it ended."""

    async def main():
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            urls = [asyncio.Queue() for _ in servers]
            for make, url in zip(servers, urls, strict=True):
                group.create_task(served(make, url, stop))
            backend = {"kind": kind, "base_url": [await url.get() for url in urls]}
            config = validate(RunConfig, {"backend": backend, **settings})
            try:
                await asyncio.to_thread(check, config, as_json=True)
                return None
            except TargetError as error:
                return str(error)
            finally:
                stop.set()

    error = asyncio.run(main())
    said = capsys.readouterr().out
    return json.loads(said) if said else None, error


async def served(make, url, stop):
    async with make() as server:
        await url.put(server.url)
        await stop.wait()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_screen_for_every_protocol(protocol, capsys):
    model = StepModel(**SLOW, prefix_block=PROTOCOLS[protocol].prefix_block)

    found, error = checked(
        capsys, lambda: emulator(protocol, model, Served(("tiny",), context=2048)), kind=protocol
    )

    version, cache = FOUND[protocol]
    assert error is None
    assert (found["reachable"], found["outcome"], found["version"]) == (True, "ok", version)
    assert found["model"] == ("tiny:latest" if protocol == "ollama" else "tiny")
    assert found["context_length"] == 2048
    assert (found["streaming"], found["finish_reason"]) == (True, "length")
    assert (found["usage"], found["output_tokens"]) == ("from the server", 8)
    assert found["prefix_cache"].startswith(cache)


@pytest.mark.parametrize("protocol", ["vllm", "ollama", "llama-server"])
def test_without_a_cache_nobody_is_said_to_have_one(protocol, capsys):
    model = StepModel(**SLOW, prefix_block=None)

    found, _ = checked(capsys, lambda: emulator(protocol, model, Served()), kind=protocol)

    assert found["prefix_cache"].startswith("no")


def test_a_server_without_usage_and_one_that_keeps_its_details(capsys):
    found, _ = checked(capsys, lambda: FakeServer(Script(usage=False, service_seconds=0.05)))
    assert found["usage"] == "none: nobody counts tokens"
    found, _ = checked(capsys, lambda: FakeServer(Script(service_seconds=0.05)), kind="vllm")
    assert found["prefix_cache"].endswith("start it with --enable-prompt-tokens-details")


def test_an_answer_in_one_piece_is_no_stream(capsys):
    found, _ = checked(
        capsys, lambda: FakeServer(Script(service_seconds=0.05, tokens_per_chunk=100))
    )
    assert (found["streaming"], found["chunks"]) == (False, "in one piece")


def test_a_probe_that_fails_is_shown_and_said(capsys):
    found, error = checked(capsys, lambda: FakeServer(Script(always="internal")))
    assert (found["reachable"], found["outcome"], found["prefix_cache"]) == (
        True, "server_error", None
    )  # fmt: skip
    assert error.startswith(f"the probe request at {found['address']} ended server_error: HTTP 500")


def test_every_one_of_several_servers_is_looked_at(capsys):
    vllm = StepModel(**SLOW, prefix_block=16)
    found, error = checked(
        capsys,
        lambda: emulator("vllm", vllm, Served()),
        lambda: FakeServer(Script(service_seconds=0.05)),
        lambda: FakeServer(Script(always="busy")),
    )
    one, other, third = found["servers"]
    assert (one["prefix_cache"][:3], other["prefix_cache"][:7]) == ("yes", "unknown")
    assert third["outcome"] == "rejected"
    assert error.startswith(f"the probe request at {third['address']} ended rejected")


def test_of_several_the_ones_there_are_shown_beside_the_one_that_is_not(capsys, free_port):
    async def main():
        async with FakeServer(Script(service_seconds=0.05)) as server:
            backend = {"kind": "openai", "base_url": [server.url, f"http://127.0.0.1:{free_port}"]}
            config = validate(RunConfig, {"backend": backend})
            with pytest.raises(TargetError, match=f"no server at http://127.0.0.1:{free_port}"):
                await asyncio.to_thread(check, config, as_json=True)
            return server.url

    url = asyncio.run(main())
    (found,) = json.loads(capsys.readouterr().out)["servers"]
    assert (found["address"], found["reachable"]) == (url, True)
