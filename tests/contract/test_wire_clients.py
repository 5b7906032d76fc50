"""Our client against the stock one, and both against servers that fail: real sockets throughout."""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from contract.errors import BackendError
from loadgen.backends.base import Request
from loadgen.backends.openai import OpenAiDialect
from loadgen.fakes.script import FAILURES, Script
from loadgen.fakes.server import FakeServer
from loadgen.stopwatch import Ids, Stopwatch, record
from loadgen.wire import ServerBackend, WireOptions
from loadgen.wire.pool import SPARE

pytestmark = pytest.mark.asyncio
ASK = Request(prompt="bada bade badi", output_tokens=6)
clients = pytest.mark.parametrize("client", ["wire", "aiohttp"])
stamping = pytest.mark.parametrize("stamps", ["kernel", "user"])

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENTS = b"".join(
    b'data: {"choices":[{"index":0,"text":"%b","finish_reason":%b}]}\n\n' % pair
    for pair in ((b"\xc3\xa0", b"null"), (b" b", b"null"), (b" c", b'"length"'))
)
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)
BODY = EVENTS + USAGE
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@asynccontextmanager
async def connected(url, **options):
    """A backend that was not opened: its model is believed."""
    backend = ServerBackend(OpenAiDialect(), url, "any", options=WireOptions(**options))
    backend.connect()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def answering(converse, **more):
    """A server that hands each request received on each connection to `converse(writer, n)`."""
    count = 0

    async def serve(reader, writer):
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length or 0))
                count += 1
                await converse(writer, count - 1)
                if writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **more)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def perform(backend, timeout=20.0, request=ASK):
    watch = Stopwatch(time.monotonic, due=time.monotonic())
    return await backend.perform(request, watch, timeout), watch


def bare(facts):
    """What does not depend on who looked."""
    return replace(facts, content=None, stamps=None, counted=None, server=None)


SCRIPTS = {
    "plain": Script(),
    "no usage": Script(usage=False),
    "merged": Script(tokens_per_chunk=2),
    "metrics": Script(metrics=True),
    "bytes": Script(split_bytes=True),
    "closing": Script(close_after_stream=True),
    **{f"fails: {name}": Script(service_seconds=0.006, failures={0: name, 2: name})
       for name in FAILURES if name != "stall"},
}  # fmt: skip


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_both_clients_see_the_same(script, endpoint):
    seen = []
    for client in ("wire", "aiohttp"):
        async with FakeServer(script) as server:
            dialect = OpenAiDialect("vllm", endpoint)
            backend = ServerBackend(dialect, server.url, "tiny", options=WireOptions(client=client))
            backend.connect()
            all_facts = [(await perform(backend))[0] for _ in range(4)]
            seen.append([(bare(f), len(f.content or ())) for f in all_facts])
            await backend.close()
    if script.close_after_stream:  # who asks again at once finds it closing, and learns from it
        assert [facts.retries for facts, _ in seen[0]] == [0, 1, 0, 0]
        seen = [[(replace(facts, retries=0), n) for facts, n in one] for one in seen]

    assert seen[0] == seen[1]


@clients
@pytest.mark.parametrize(
    ("answer", "outcome", "says"),
    [
        (b"HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", "rejected", "HTTP 429"),
        (b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", "rejected", "HTTP 503"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "server_error", "HTTP 503"),
        (HEAD + b"Content-Length: 9\r\n\r\ndata: {\n\n", "bad_stream", "not a JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<ht>",
         "bad_stream", "not an event stream: <ht>"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "bad_stream",
         "redirected to /x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_stream", ""),
        (HEAD + b"Content-Length: 900\r\n\r\n" + EVENTS, "bad_stream", "broke the connection off"),
        (b"", "bad_stream", "without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "bad_stream", "not HTTP"),
        (HEAD + b"\r\n" + BODY, "ok", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED, "ok", ""),
    ],
)  # fmt: skip
async def test_what_servers_do_wrong_is_an_outcome(client, answer, outcome, says):
    async def converse(writer, _number):
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with (
        answering(converse) as port,
        connected(f"http://127.0.0.1:{port}", client=client) as backend,
    ):
        facts, _ = await perform(backend)

    assert facts.outcome == outcome
    assert says in (facts.error or "")


@stamping
async def test_a_line_of_a_gigabyte_is_given_up_soon(stamps):
    sent = 0

    async def converse(writer, _number):
        nonlocal sent
        writer.write(HEAD + b"\r\ndata: ")
        for _ in range(1024):
            writer.write(b"x" * 2**20)
            await writer.drain()
            sent += 2**20

    async with (
        answering(converse) as port,
        connected(f"http://127.0.0.1:{port}", stamps=stamps) as backend,
    ):
        facts, _ = await perform(backend)
        assert len(facts.content) == 0

    assert facts.outcome == "bad_stream"
    assert facts.error == "a line of the stream is over 16777216 bytes"
    assert sent < 2**26


@clients
async def test_a_name_that_does_not_resolve_is_unreachable(client):
    async with connected("http://no-such-host.invalid:80", client=client) as backend:
        facts, _ = await perform(backend)

    assert (facts.outcome, facts.status) == ("unreachable", None)
    assert facts.error == "the name does not resolve"


@clients
async def test_tls_where_there_is_none_is_unreachable(client):
    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with connected(f"https://127.0.0.1:{port}", client=client) as backend:
        facts, _ = await perform(backend)
    server.close()
    await server.wait_closed()

    assert facts.outcome == "unreachable"
    assert facts.error.startswith("TLS: ")


async def test_tls_is_spoken_and_stamped_by_us(certificate):
    async def converse(writer, _number):
        writer.write(CHUNKED)
        await writer.drain()

    async with answering(converse, ssl=certificate.server) as port:
        trusting = ssl.create_default_context(cafile=str(certificate.path))
        async with connected(f"https://127.0.0.1:{port}", tls=trusting) as backend:
            first, _ = await perform(backend)
            second, _ = await perform(backend)
        async with connected(f"https://127.0.0.1:{port}") as backend:
            untrusted, _ = await perform(backend)
        async with connected(f"http://127.0.0.1:{port}") as backend:
            plain, _ = await perform(backend)

    assert (first.outcome, first.stamps, len(first.content)) == ("ok", "user", 3)
    assert (second.outcome, second.connect) == ("ok", None)
    assert untrusted.outcome == "unreachable"
    assert "self-signed certificate" in untrusted.error
    assert plain.outcome == "bad_stream"
    assert plain.error == "the server closed the connection without an answer"


@stamping
async def test_silence_times_out_everyone_and_the_next_request_is_fine(stamps):
    quiet = True

    async def converse(writer, _number):
        if not quiet:
            writer.write(CHUNKED)
            await writer.drain()

    async with (
        answering(converse) as port,
        connected(f"http://127.0.0.1:{port}", stamps=stamps) as backend,
    ):
        limits = [0.05, 0.02, 0.08, 0.05]
        ended = await asyncio.gather(*(perform(backend, timeout=limit) for limit in limits))
        quiet = False
        after, _ = await perform(backend)

    assert [facts.outcome for facts, _ in ended] == ["timed_out"] * 4
    assert ended[1][0].error == "no end within 0.02 s"
    assert (after.outcome, after.retries) == ("ok", 0)


async def test_warm_connections_are_there_before_the_first_request():
    async with FakeServer() as server, connected(server.url) as backend:
        await backend.warm(5)
        assert server.connections == 5
        await backend.warm(5)
        ended = await asyncio.gather(*(perform(backend) for _ in range(6)))
        assert server.connections == 6

    assert sorted(facts.connect is None for facts, _ in ended) == [False] + [True] * 5


async def test_where_a_connection_was_missing_a_few_more_are_opened_for_the_next():
    async with FakeServer() as server, connected(server.url) as backend:
        for _ in range(2):
            await perform(backend)  # from now on it is known that they are kept
        await asyncio.gather(*(perform(backend) for _ in range(2)))
        async with asyncio.timeout(10):
            while server.connections < 2 + SPARE:  # noqa: ASYNC110 - the server has no event
                await asyncio.sleep(0)
        ended = await asyncio.gather(*(perform(backend) for _ in range(2 + SPARE)))

    assert [facts.connect for facts, _ in ended] == [None] * (2 + SPARE)


async def test_warming_finds_out_that_there_is_no_server():
    async with FakeServer() as server:
        pass
    async with connected(server.url) as backend:
        with pytest.raises(BackendError, match="connection refused"):
            await backend.warm(3)


@stamping
async def test_a_retry_is_recorded_and_happens_once(stamps):
    async with FakeServer(Script(failures={1: "drop"})) as server:
        dialect = OpenAiDialect("vllm")
        options = WireOptions(stamps=stamps)
        backend = ServerBackend(dialect, server.url, "tiny", options=options)
        backend.connect()
        first, _ = await perform(backend)
        again, watch = await perform(backend)
        await backend.close()

    assert (first.outcome, first.retries) == ("ok", 0)
    assert (again.outcome, again.retries, len(server.log.visits)) == ("ok", 1, 3)
    assert watch.due <= watch.sent_at <= server.log.visits[1].arrival


@stamping
async def test_bytes_nobody_asked_for_end_the_connection(stamps):
    async def converse(writer, number):
        writer.write(CHUNKED + (b"HTTP/1.1 200 OK\r\n\r\n" if number == 0 else b""))
        await writer.drain()

    async with (
        answering(converse) as port,
        connected(f"http://127.0.0.1:{port}", stamps=stamps) as backend,
    ):
        first, _ = await perform(backend, timeout=0.3)
        second, _ = await perform(backend)

    assert len(first.content) == 3
    assert (second.outcome, second.connect is not None) == ("ok", True)


async def test_a_long_stream_is_thinned_and_counted_whole():
    async with FakeServer(Script(service_seconds=0.1)) as server:
        options = WireOptions(kept_budget=8 * 1024)
        backend = ServerBackend(OpenAiDialect(), server.url, "tiny", options=options)
        backend.connect()
        facts, watch = await perform(backend, request=Request("bada", 500))
        done = record(watch, facts, Ids("r", 1, 1, 0, 0), "measured", time.monotonic())
        await backend.close()

    assert (facts.outcome, done.chunks, facts.output_tokens) == ("ok", 500, 500)
    assert done.due <= done.sent <= done.first_token <= done.last_token <= done.ended


def serve_once(listener, arrived, free):
    """Answer one request: the events, then their end when the client has looked at its clock."""
    line, _ = listener.accept()
    with line:
        line.recv(65536)
        line.sendall(HEAD + b"\r\n" + EVENTS)
        arrived.set()
        free.wait(10)
        line.sendall(USAGE)


@stamping
async def test_only_the_kernel_knows_when_bytes_came_while_the_loop_was_busy(stamps):
    arrived, free = threading.Event(), threading.Event()
    watch = Stopwatch(time.monotonic, due=time.monotonic())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_once, args=(listener, arrived, free))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with connected(url, stamps=stamps) as backend:
            task = asyncio.create_task(backend.perform(ASK, watch, 20.0))
            while watch.sent_at is None:  # noqa: ASYNC110 - sending has no event
                await asyncio.sleep(0)
            arrived.wait(10)  # the loop stands still until the bytes are there
            looked = time.monotonic()
            while not watch.marks:  # noqa: ASYNC110 - nor has reading
                await asyncio.sleep(0)
            free.set()
            facts = await task
            backend.late(0.25)
            stats = backend.stamps_taken()
            after = backend.stamps_taken()
        thread.join(10)

    assert (facts.outcome, facts.stamps) == ("ok", stamps)
    assert (watch.marks[0] < looked) == (stamps == "kernel")
    assert stats.kernel_share == (1.0 if stamps == "kernel" else 0.0)
    assert stats.missing == after.reads == 0
    # What the kernel stamped shows its own delay; of the rest a timer says how late it was.
    assert (len(stats.delays) > 0) == (stamps == "kernel")
    assert stats.waits.pairs() == ([(250_000, stats.user)] if stamps == "user" else [])
    assert stats.first_waits.pairs() == [(250_000, 1)]
    assert 0 < stats.clock < 0.1
