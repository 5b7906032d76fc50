"""The wire client against a real server on a real socket: outcomes, stamps and connections."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from contract.errors import ConfigError, TargetError
from loadgen.backends.base import Request
from loadgen.backends.openai import OpenAiDialect
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from loadgen.stopwatch import Ids, Stopwatch, record
from loadgen.wire import ServerBackend, WireOptions

pytestmark = pytest.mark.asyncio
ASK = Request(prompt="bada bade badi", output_tokens=6)
SECRET = "sk-very-secret-0123"


@asynccontextmanager
async def serving(script=None, model=None, endpoint="completions", **options):
    """A scripted server, and a backend that has opened it."""
    async with FakeServer(script or Script()) as server:
        dialect = OpenAiDialect("vllm", endpoint)
        backend = ServerBackend(dialect, server.url, model, options=WireOptions(**options))
        await backend.open()
        try:
            yield server, backend
        finally:
            await backend.close()


async def perform(backend, timeout=20.0, request=ASK):
    """One exchange: its facts and its stopwatch."""
    watch = Stopwatch(time.monotonic, due=time.monotonic())
    return await backend.perform(request, watch, timeout), watch


async def until(condition):
    """Wait for a condition that another task makes true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)


@asynccontextmanager
async def raw_server(answer):
    """A server that sends what `answer(head)` returns to every request, and hangs up."""

    async def converse(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        await reader.readexactly(int(length or 0))
        writer.write(answer(head))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
async def test_a_stream_is_stamped_and_counted(endpoint):
    script = Script(service_seconds=0.02, metrics=True)

    async with serving(script, endpoint=endpoint) as (server, backend):
        facts, watch = await perform(backend)
        done = record(watch, facts, Ids("r", 1, 1, 0, 0), "measured", time.monotonic())

    visit = server.log.visits[0]
    assert facts.outcome == "ok"
    assert (done.chunks, done.prompt_tokens, done.output_tokens) == (6, 3, 6)
    assert len(done.gaps_us) == 5
    assert done.due <= done.sent <= visit.arrival <= visit.start
    assert visit.start + 0.004 <= done.first_token < done.last_token <= done.ended
    assert visit.start + 0.02 <= done.last_token
    assert facts.server.prefill == pytest.approx(0.004)
    assert facts.server.decode == pytest.approx(0.016)


async def test_facts_are_the_same_when_every_byte_comes_by_itself():
    async with serving() as (_, backend):
        whole, few = await perform(backend)
    async with serving(Script(split_bytes=True)) as (_, backend):
        apart, many = await perform(backend)

    assert len(many.marks) > 10 * len(few.marks)
    assert replace(apart, content=None) == replace(whole, content=None)
    assert len(apart.content) == len(whole.content) == 6
    assert list(apart.content) == sorted(apart.content)


@pytest.mark.parametrize(
    ("failure", "outcome", "chunks", "says"),
    [
        ("error_event", "server_error", 3, "The engine died."),
        ("cut", "bad_stream", 3, "broke the connection off"),
        ("not_json", "bad_stream", 3, "not a JSON object"),
        ("no_finish", "truncated", 6, "no finish reason"),
        ("drop", "bad_stream", 0, "without an answer"),
        ("html", "bad_stream", 0, "Welcome"),
        ("redirect", "bad_stream", 0, "redirected to /elsewhere"),
        ("busy", "rejected", 0, "HTTP 503"),
        ("rate_limit", "rejected", 0, "HTTP 429"),
        ("internal", "server_error", 0, "HTTP 500"),
    ],
)
async def test_a_failure_is_an_outcome_with_a_reason(failure, outcome, chunks, says):
    script = Script(service_seconds=0.012, failures={0: failure})

    async with serving(script) as (server, backend):
        facts, _ = await perform(backend)
        after, _ = await perform(backend)

    assert (facts.outcome, len(facts.content or ())) == (outcome, chunks)
    assert says in facts.error
    assert after.outcome == "ok"
    assert len(server.log.visits) == 2


async def test_a_reset_is_a_bad_stream():
    async with serving(Script(service_seconds=0.012, always="reset")) as (_, backend):
        facts, _ = await perform(backend)

    assert (facts.outcome, facts.status) == ("bad_stream", 200)


async def test_a_stream_without_done_is_ok():
    async with serving(Script(always="no_done")) as (_, backend):
        facts, _ = await perform(backend)

    assert facts.outcome == "ok"


async def test_a_server_without_usage_counts_nothing():
    async with serving(Script(usage=False)) as (_, backend):
        facts, _ = await perform(backend)

    assert (facts.outcome, len(facts.content), facts.output_tokens) == ("ok", 6, None)


async def test_a_stall_times_out_and_keeps_what_came():
    async with serving(Script(failures={0: "stall"})) as (server, backend):
        facts, watch = await perform(backend, timeout=1.0)
        await until(lambda: server.log.visits[0].end is not None)
        after, _ = await perform(backend)

    assert (facts.outcome, facts.error) == ("timed_out", "no end within 1 s")
    assert len(facts.content) == 3
    assert len(watch.marks) >= 1
    assert after.outcome == "ok"


async def test_cancelling_aborts_and_leaves_no_connection():
    async with serving(Script(always="stall")) as (server, backend):
        watch = Stopwatch(time.monotonic, due=time.monotonic())
        task = asyncio.create_task(backend.perform(ASK, watch, 60))
        await until(lambda: watch.marks)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.open_connections == 0)

    assert server.log.visits[0].outcome == "stall"


async def test_connections_are_reused():
    async with serving() as (server, backend):
        before = server.connections
        outcomes = [(await perform(backend))[0].outcome for _ in range(4)]

    assert outcomes == ["ok"] * 4
    assert server.connections - before == 1


async def test_a_server_that_closes_after_each_stream_is_no_failure():
    async with serving(Script(close_after_stream=True)) as (server, backend):
        outcomes = [(await perform(backend))[0].outcome for _ in range(6)]

    assert outcomes == ["ok"] * 6
    assert len(server.log.visits) == 6


async def test_a_reused_connection_closed_before_any_answer_is_tried_once_more():
    async with serving(Script(failures={1: "drop", 3: "drop", 4: "drop"})) as (server, backend):
        first, _ = await perform(backend)
        again, watch = await perform(backend)
        assert len(server.log.visits) == 3
        third, _ = await perform(backend)

    assert (first.outcome, again.outcome, len(again.content)) == ("ok", "ok", 6)
    assert watch.sent_at < server.log.visits[1].arrival
    # The retry used a connection of its own, so the next request opened a new one: no retry.
    assert (third.outcome, len(server.log.visits)) == ("bad_stream", 4)


async def test_a_server_that_goes_away_is_unreachable():
    async with serving() as (server, backend):
        await perform(backend)
        await server.__aexit__(None, None, None)
        facts, _ = await perform(backend)

    assert (facts.outcome, facts.status) == ("unreachable", None)
    assert facts.error == "connection refused"


async def test_a_body_over_its_budget_is_refused():
    async with serving(body_budget=300) as (_, backend):
        facts, _ = await perform(backend)

    assert (facts.outcome, facts.error) == ("bad_stream", "the body is over 300 bytes")


async def test_a_very_long_prompt_goes_out_whole():
    async with serving() as (_, backend):
        facts, _ = await perform(backend, request=Request("bada " * 400_000, 2))

    assert (facts.outcome, facts.prompt_tokens) == ("ok", 400_000)


async def test_an_answer_that_is_not_http_is_a_bad_stream():
    async with raw_server(lambda _head: b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url:
        backend = ServerBackend(OpenAiDialect(), url, "any")
        backend.connect()
        facts, _ = await perform(backend)
        await backend.close()

    assert facts.outcome == "bad_stream"


@pytest.mark.parametrize("variable", ["LOADSTONE_API_KEY", "OPENAI_API_KEY"])
async def test_the_key_is_sent_and_never_told(variable, monkeypatch):
    monkeypatch.setenv(variable, SECRET)
    heads = []

    def answer(head):
        heads.append(head)
        body = b'{"error":{"message":"wrong key ' + SECRET.encode() + b'"}}'
        return b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async with raw_server(answer) as url:
        backend = ServerBackend(OpenAiDialect(), url, "any")
        backend.connect()
        facts, _ = await perform(backend)
        await backend.close()

    assert b"Authorization: Bearer " + SECRET.encode() in heads[0]
    assert (facts.outcome, facts.error) == ("rejected", "HTTP 401: wrong key [API key]")


async def test_a_key_no_header_can_carry_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\nX-Evil: 1")

    with pytest.raises(ConfigError) as caught:
        ServerBackend(OpenAiDialect(), "http://127.0.0.1:1")

    assert "OPENAI_API_KEY" in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://host/prefix/v1", "https://host/prefix"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
async def test_an_address_is_what_stands_before_v1(given, address):
    assert ServerBackend(OpenAiDialect(), given).address == address


@pytest.mark.parametrize(
    "given", ["127.0.0.1:8000", "localhost", "ftp://h", "http://", "http://h:99999", "http://h?a=1"]
)
async def test_what_is_no_address_is_refused(given):
    with pytest.raises(ConfigError, match=r"--base-url.*allowed: http://HOST:PORT"):
        ServerBackend(OpenAiDialect(), given)


async def test_credentials_in_the_address_are_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        ServerBackend(OpenAiDialect(), "http://user:hidden@host:80")

    assert "hidden" not in str(caught.value)


async def opened(server, model=None):
    """The target that the preflight finds."""
    backend = ServerBackend(OpenAiDialect("vllm"), server.url, model, start="'vllm serve MODEL'")
    try:
        return await backend.open()
    finally:
        await backend.close()


async def test_the_only_model_and_the_version_are_found_out():
    async with FakeServer(Script(models=("tiny",))) as server:
        target = await opened(server)

    assert (target.model, target.models, target.version) == ("tiny", ("tiny",), "fake-1")
    assert target.address == server.url
    assert server.log.visits == []


async def test_several_models_are_listed_instead_of_chosen():
    async with FakeServer(Script(models=("tiny", "small"))) as server:
        with pytest.raises(TargetError, match="2 models, choose one with --model: tiny, small"):
            await opened(server)
        assert (await opened(server, "small")).model == "small"


async def test_an_unlisted_model_that_answers_a_probe_is_there():
    async with FakeServer(Script(lists_models=False)) as server:
        target = await opened(server, "tiny")

    assert (target.model, target.models) == ("tiny", ())
    assert [v.output_tokens for v in server.log.visits] == [1]


async def test_a_server_without_a_list_wants_a_name():
    async with FakeServer(Script(lists_models=False)) as server:
        with pytest.raises(TargetError, match="lists no model: name one with --model"):
            await opened(server)


async def test_a_model_that_fails_its_probe_is_absent():
    async with FakeServer(Script(models=("tiny-llama",))) as server:
        with pytest.raises(TargetError) as caught:
            await opened(server, "tiny-lama")

    assert "does not serve model 'tiny-lama', did you mean 'tiny-llama'?" in str(caught.value)
    assert "The model `tiny-lama` does not exist." in str(caught.value)


async def test_a_busy_server_has_not_said_that_the_model_is_absent():
    async with FakeServer(Script(lists_models=False, always="busy")) as server:
        target = await opened(server, "tiny")

    assert target.model == "tiny"
    assert "busy" in target.notes["probe"]


async def test_no_server_is_one_line_with_what_to_start():
    async with FakeServer() as server:
        pass

    with pytest.raises(TargetError) as caught:
        await opened(server)

    assert str(caught.value) == (
        f"no server at {server.url} (connection refused): "
        "start 'vllm serve MODEL' there or give --base-url"
    )


async def test_tls_to_a_server_without_it_is_not_there():
    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(TargetError, match=r"no server at https.*\(TLS: "):
        await ServerBackend(OpenAiDialect(), url, "tiny").open()
    server.close()
    await server.wait_closed()


async def test_a_server_that_wants_a_key_says_so():
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(lambda _head: refusal) as url:
        with pytest.raises(TargetError, match=r"wants an API key .*LOADSTONE_API_KEY"):
            await ServerBackend(OpenAiDialect(), url, "tiny").open()


async def test_facts_about_the_model_come_from_the_list():
    page = (
        b'{"data":[{"id":"m","max_model_len":1024,'
        b'"meta":{"n_params":270656,"size":541952,"ftype":"F16"}}]}'
    )
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    async with raw_server(lambda _head: response) as url:
        backend = ServerBackend(OpenAiDialect(), url)
        target = await backend.open()
        await backend.close()
    assert (target.model, target.context_length, target.version) == ("m", 1024, None)
    assert (target.parameters, target.weight_bytes, target.quantization) == (270656, 541952, "F16")
