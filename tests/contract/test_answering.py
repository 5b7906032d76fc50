"""A backend at another family's server says before the run which one answers there."""

import asyncio

import pytest

from contract.errors import TargetError
from loadgen.backends import BACKENDS
from loadgen.config import RunConfig
from loadgen.fakes.emulator import Served, emulator
from loadgen.fakes.steps import StepModel

WRONG = [
    (backend, there)
    for backend in ("ollama", "tgi", "llama-server")
    for there in ("vllm", "ollama", "tgi", "llama-server", "openai")
    if backend != there
]
# Of OpenAI's protocol are the others' own routes too, but for those that this Ollama has.
WRONG += [("vllm", "ollama"), ("openai", "ollama")]
RIGHT = [("openai", "vllm"), ("vllm", "openai"), ("openai", "tgi"), ("vllm", "llama-server")]


def opened(backend, there, model=None):
    """What the preflight says of such a server: its model, or the error."""

    async def main():
        async with emulator(there, StepModel(), Served(models=("tiny",)), None) as server:
            settings = {"kind": backend, "base_url": server.url}
            config = RunConfig.model_validate({"backend": settings, "model": model})
            driven = BACKENDS[backend].build(config)
            try:
                return server.url, (await driven.open()).model
            except TargetError as error:
                return server.url, str(error)
            finally:
                await driven.close()

    return asyncio.run(main())


@pytest.mark.parametrize("model", [None, "tiny", "other"])
@pytest.mark.parametrize(("backend", "there"), WRONG)
def test_a_wrong_backend_is_told_which_one_it_should_be(backend, there, model):
    url, found = opened(backend, there, model)
    assert found == f"{url} answers as {there} does, not as {backend}: give --backend {there}"


@pytest.mark.parametrize(("backend", "there"), RIGHT)
def test_a_server_of_openais_protocol_serves_whoever_speaks_it(backend, there):
    assert opened(backend, there)[1] == "tiny"


@pytest.mark.parametrize(("backend", "there"), [("openai", "vllm"), ("vllm", "openai")])
def test_a_missing_model_is_no_wrong_backend(backend, there):
    url, found = opened(backend, there, "tinny")
    assert found.startswith(f"{url} does not serve model 'tinny', did you mean 'tiny'?")


def test_a_server_of_no_known_family_is_told_from_an_empty_one():
    async def main():
        async with asyncio.timeout(20):
            server = await asyncio.start_server(nothing, "127.0.0.1", 0)
            async with server:
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                config = RunConfig.model_validate({"backend": {"kind": "ollama", "base_url": url}})
                says = r"/api/tags answers HTTP 404, no list of models: give the --base-url of a "
                with pytest.raises(TargetError, match=says):
                    await BACKENDS["ollama"].build(config).open()

    asyncio.run(main())


async def nothing(reader, writer):
    """Answers 404 whatever is asked."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/xyz"])
def test_an_address_with_a_route_is_told_to_go_without(path):
    async def main():
        async with emulator("vllm", StepModel(), Served(models=("tiny",)), None) as server:
            settings = {"kind": "vllm", "base_url": server.url + path}
            driven = BACKENDS["vllm"].build(RunConfig.model_validate({"backend": settings}))
            with pytest.raises(TargetError, match=r"models answers HTTP 404, .* without a route"):
                await driven.open()

    asyncio.run(main())
