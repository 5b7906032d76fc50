"""The backends as they are built from a configuration, against servers that keep their pages."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from contract.config import validate
from contract.errors import ConfigError, TargetError
from contract.records import ServerFacts
from loadgen.backends import BACKENDS
from loadgen.backends.base import Request
from loadgen.backends.surveyed import with_cut_noted, with_load
from loadgen.commands.check import check
from loadgen.config import RunConfig
from loadgen.stopwatch import Facts, Stopwatch

ASK = Request("bada bade badi", 2)


@dataclass
class Script:
    """Answers by method and path; a callable is asked with the body's document."""

    pages: dict
    asked: list = field(default_factory=list)

    def answer(self, method, path, document):
        self.asked.append((method, path, document))
        page = self.pages.get(f"{method} {path}")
        page = page(document) if callable(page) else page
        if page is None:
            return 404, "application/json", b'{"error":"no such page"}'
        if isinstance(page, bytes):
            kind = "text/event-stream" if page.startswith(b"data:") else "application/x-ndjson"
            return 200, kind, page
        return 200, "application/json", json.dumps(page).encode()


@asynccontextmanager
async def serving(script):
    async def converse(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = head.lower().partition("content-length: ")[2].partition("\r")[0]
        body = await reader.readexactly(int(length or 0))
        status, kind, answer = script.answer(method, path, json.loads(body) if body else None)
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + answer
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def config_of(kind, url, **more):
    backend = {"kind": kind, "base_url": url, **more.pop("backend", {})}
    return validate(RunConfig, {"backend": backend, **more})


@asynccontextmanager
async def opened(kind, script, **more):
    async with serving(script) as url:
        backend = BACKENDS[kind].build(config_of(kind, url, **more))
        target = await backend.open()
        try:
            yield backend, target
        finally:
            await backend.close()


async def perform(backend):
    watch = Stopwatch(time.monotonic, due=time.monotonic())
    return await backend.perform(ASK, watch, 20)


def ollama(prompt_tokens=3, load=20_000_000, loaded=True):
    """An Ollama with one model, which generating loads and `keep_alive: 0` unloads, one look
    at /api/ps later."""
    memory = {"loaded": loaded, "leaving": False}

    def ps(_document):
        here = memory["loaded"]
        if memory["leaving"]:
            memory.update(loaded=False, leaving=False)
        entry = {"name": "phi:latest", "model": "phi:latest", "size": 10, "size_vram": 0}
        return {"models": [entry | {"context_length": 2048}] if here else []}

    def generate(document):
        if "prompt" not in document:
            memory["leaving"] = True
            return {"model": "phi", "response": "", "done": True, "done_reason": "unload"}
        memory["loaded"] = True
        end = {"response": "", "done": True, "done_reason": "length", "eval_count": 2,
               "prompt_eval_count": prompt_tokens, "prompt_eval_duration": 1_000,
               "eval_duration": 1_000, "load_duration": load,
               "total_duration": load + 2_000}  # fmt: skip
        words = [{"response": word, "done": False} for word in (" a", " b")]
        return b"".join(json.dumps(d).encode() + b"\n" for d in [*words, end])

    return Script(
        {
            "GET /api/tags": {"models": [{"name": "phi:latest", "size": 99}]},
            "GET /api/version": {"version": "0.12.6"},
            "POST /api/show": {"model_info": {"general.parameter_count": 5}},
            "GET /api/ps": ps,
            "POST /api/generate": generate,
        }
    )


@pytest.mark.asyncio
async def test_ollama_is_found_with_model_version_and_context():
    script = ollama()

    async with opened("ollama", script) as (backend, target):
        facts = await perform(backend)

    assert (target.model, target.version, target.weight_bytes) == ("phi:latest", "0.12.6", 99)
    assert (target.parameters, target.context_length) == (5, 2048)
    assert target.notes == {"loaded_before": True, "gpu_share": 0.0}
    assert ("POST", "/api/show", {"model": "phi:latest"}) in script.asked
    assert (facts.outcome, facts.output_tokens, len(facts.content)) == ("ok", 2, 2)
    assert facts.server.load is None


@pytest.mark.asyncio
async def test_a_model_that_was_not_in_memory_makes_the_first_request_cold():
    async with opened("ollama", ollama(loaded=False)) as (backend, target):
        cold, warm = await perform(backend), await perform(backend)

    assert target.notes["loaded_before"] is False
    assert cold.server.load > 0
    assert cold.server.queue is None
    assert warm.server.load is None
    assert warm.server.queue == pytest.approx(0.020)


@pytest.mark.asyncio
async def test_unloading_waits_until_the_model_is_gone_and_the_next_request_is_cold():
    script = ollama()

    async with opened("ollama", script) as (backend, _):
        assert (await perform(backend)).server.load is None
        await backend.unload()
        assert await backend.loaded() is False
        facts = await perform(backend)

    assert ("POST", "/api/generate", {"model": "phi:latest", "keep_alive": 0}) in script.asked
    assert facts.server.load is not None


@pytest.mark.asyncio
async def test_a_load_that_the_server_reports_stands():
    async with opened("ollama", ollama(loaded=False, load=3_000_000_000)) as (backend, _):
        facts = await perform(backend)

    assert facts.server.load == 3.0


@pytest.mark.asyncio
async def test_a_prompt_cut_silently_is_found_by_the_counts():
    async with opened("ollama", ollama(prompt_tokens=2)) as (backend, _):
        facts = await perform(backend)

    assert facts.outcome == "ok"
    assert facts.error == "the server cut the prompt: it counted 2 tokens of 3 words"


@pytest.mark.parametrize(
    ("counted", "noted"), [(0, False), (None, False), (89, True), (90, False), (130, False)]
)
def test_a_cut_is_noted_below_nine_tokens_for_ten_words(counted, noted):
    facts = with_cut_noted(Facts("ok", prompt_tokens=counted), Request("bada " * 100, 1))

    assert (facts.error is not None) == noted


def test_a_load_is_what_passed_before_the_first_token_beyond_the_prefill():
    watch = Stopwatch(iter([10.0, 10.5, 12.0]).__next__, due=9.0)
    watch.sent()
    watch.mark()  # the headers' read
    watch.mark()
    facts = Facts("ok", content=[1], server=ServerFacts(prefill=0.25, queue=1.0))

    assert with_load(facts, watch).server == ServerFacts(load=1.75, prefill=0.25)
    assert with_load(Facts("ok", content=[]), watch).server is None


@pytest.mark.asyncio
async def test_what_cannot_be_unloaded_says_so():
    script = Script({"GET /info": {"model_id": "m", "max_total_tokens": 64}})

    async with opened("tgi", script) as (backend, target):
        assert await backend.loaded() is None
        with pytest.raises(TargetError, match="no request that unloads"):
            await backend.unload()

    assert (target.model, target.context_length) == ("m", 64)


@pytest.mark.asyncio
async def test_a_refused_unload_is_one_line():
    script = ollama()

    async with opened("ollama", script) as (backend, _):
        del script.pages["POST /api/generate"]
        with pytest.raises(TargetError, match="unloading 'phi:latest': HTTP 404"):
            await backend.unload()


@pytest.mark.asyncio
async def test_a_reset_that_is_refused_says_what_the_server_wants():
    pages = {"GET /v1/models": {"data": [{"id": "tiny"}]}, "POST /slots/0?action=erase": {}}
    props = {"GET /props": {"total_slots": 2}}

    async with opened("llama-server", Script(pages | props)) as (backend, _):
        why = await backend.reset_cache()

    wanted = f"HTTP 404 from {backend.address}/slots/1?action=erase; it wants a server with"
    assert why == f"{wanted} --slot-save-path"


@pytest.mark.asyncio
async def test_tgi_under_a_wrong_name_is_refused():
    said = {"token": {"text": "a"}, "details": {"finish_reason": "length"}}
    reply = b"data: " + json.dumps(said).encode() + b"\n\n"
    script = Script({"GET /info": {"model_id": "m"}, "POST /generate_stream": reply})

    async with serving(script) as url:
        backend = BACKENDS["tgi"].build(config_of("tgi", url, model="other"))
        with pytest.raises(TargetError, match="does not serve model 'other'"):
            await backend.open()


@pytest.mark.asyncio
async def test_pages_that_are_not_there_leave_the_rest_as_found():
    script = ollama()
    del script.pages["POST /api/show"], script.pages["GET /api/ps"]

    async with opened("ollama", script) as (backend, target):
        assert await backend.loaded() is None
        facts = await perform(backend)

    assert (target.model, target.parameters, target.context_length) == ("phi:latest", None, None)
    assert facts.server.load is None


def native(words, cached, prompt_ms):
    end = {"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": words,
           "tokens_evaluated": 64,
           "timings": {"cache_n": cached, "prompt_ms": prompt_ms, "predicted_ms": 1.0}}  # fmt: skip
    chunks = [{"content": f" {i}", "stop": False} for i in range(words)]
    return b"".join(b"data: " + json.dumps(d).encode() + b"\n\n" for d in [*chunks, end])


def test_check_says_it_all_in_one_screen(capsys):
    seen = {}

    def completion(document):
        cached = 60 if document["cache_prompt"] and document["prompt"] in seen else 0
        seen[document["prompt"]] = True
        return native(document["n_predict"], cached, 5.0)

    props = {"default_generation_settings": {"n_ctx": 256}, "build_info": "b9", "is_sleeping": True}
    script = Script(
        {
            "GET /v1/models": {"data": [{"id": "tiny", "meta": {"n_params": 7}}]},
            "GET /props": props,
            "POST /completion": completion,
        }
    )

    async def main():
        async with serving(script) as url:
            config = config_of("llama-server", url)
            assert await asyncio.to_thread(check, config, as_json=True) == 0
            assert await asyncio.to_thread(check, config, as_json=False) == 0

    asyncio.run(main())
    first, *screen = capsys.readouterr().out.splitlines()
    found = json.loads(first)
    assert found.pop("address").startswith("http://127.0.0.1:")
    assert found == {
        "backend": "llama-server",
        "reachable": True,
        "version": "b9",
        "model": "tiny",
        "models": ["tiny"],
        "quantization": None,
        "parameters": 7,
        "context_length": 256,
        "loaded_before": False,
        "outcome": "ok",
        "streaming": None,  # all of it was sent at once
        "chunks": "8 in one read",
        "finish_reason": "length",
        "usage": "from the server",
        "prompt_tokens": 64,
        "output_tokens": 8,
        "server_reports": ["cached_prompt_tokens", "decode", "load", "prefill"],
        "prefix_cache": "yes: 60 of 64 prompt tokens cached",
    }
    assert len(screen) <= 24
    assert any("prefix_cache" in line and "60 of 64" in line for line in screen)


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ({"kind": "ollama", "endpoint": "completions"}, "'generate' or 'chat'"),
        ({"kind": "ollama", "keep_alive": "soon"}, "seconds or a duration such as 10m"),
        ({"kind": "ollama", "num_ctx": 300}, "do not fit into num_ctx 300"),
        ({"kind": "tgi", "endpoint": "completions"}, "'generate' or 'chat'"),
        ({"kind": "llama-server", "endpoint": "generate"}, "'native'"),
    ],
)
def test_what_a_backend_does_not_know_is_refused(backend, says):
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        validate(RunConfig, {"backend": backend})


@pytest.mark.parametrize(
    ("given", "sent"),
    [("10m", "10m"), ("1h30m", "1h30m"), ("300", 300.0), (-1, -1.0), ("-1", -1.0)],
)
def test_keep_alive_goes_out_as_ollama_reads_it(given, sent):
    config = config_of("ollama", "http://x:1", backend={"keep_alive": given})

    assert config.backend.keep_alive == sent


@pytest.mark.asyncio
async def test_what_was_in_memory_before_is_not_forgotten_when_the_pages_are_read_again():
    async with opened("ollama", ollama(loaded=False)) as (backend, target):
        await perform(backend)
        again = await backend.examined(target)

    assert target.context_length is None
    assert again.context_length == 2048
    assert again.notes["loaded_before"] is False
