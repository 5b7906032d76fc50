"""The lane held against the general way: the same requests, the same records but for instants."""

import asyncio
import random
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, fields, replace

import orjson
import pytest

from contract.records import RequestRecord, StageKey
from loadgen.backends.body import Body
from loadgen.backends.openai import OpenAiDialect
from loadgen.engine import StagePlan, StageRun
from loadgen.lane import COMPILED
from loadgen.loops import Closed
from loadgen.wire import ServerBackend, WireOptions
from loadgen.workload.lengths import parse_lengths
from loadgen.workload.prompts import PromptSource
from tests.contract.protocols import PROTOCOLS
from tests.contract.test_wire_cuts import INSTANTS, STREAMS, chunked, cutting

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not COMPILED, reason="the lane was not compiled here"),
]
PLAIN = {
    "openai completions",
    "openai completions, no chunk after the last word",
    "tgi chat",
    "vllm chat",
}


@asynccontextmanager
async def opened(address, client="wire", dialect=None, **options):
    """A backend that was not opened: its model is believed."""
    options = WireOptions(client=client, **options)
    backend = ServerBackend(dialect or OpenAiDialect("vllm"), address, "m", options=options)
    backend.connect()
    try:
        yield backend
    finally:
        await backend.close()


def stage_of(backend, source=None, *, requests=1, agents=1, number=1, timeout=20.0, emit=None):
    """A closed loop of so many requests; what it emits is in `emitted`."""
    origin = time.monotonic()
    clock = lambda: round(time.monotonic() - origin, 9)  # noqa: E731
    key = StageKey(backend.name, "m", agents, 8, 4)
    plan = StagePlan(number, key, Closed(agents), 0, None, requests, timeout, 1.0)
    source = source or PromptSource(0, parse_lengths("8"), parse_lengths("4"))
    emitted = []
    stage = StageRun("run-1", plan, clock, emit or emitted.append, backend, source, origin)
    return stage, emitted


def stated(record):
    """A record as read back from its line."""
    line = record.line() if hasattr(record, "line") else orjson.dumps(asdict(record))
    return RequestRecord.from_json(orjson.loads(line))


def fixed(record):
    """What of a record does not depend on time; of gaps, where there were any."""
    values = {name: value for name, value in asdict(record).items() if name not in INSTANTS}
    gone = values["first_answer"] is not None
    return values | {"gaps_us": [gap > 0 for gap in record.gaps_us], "first_answer": gone}


async def cut(backend, put, release, place):
    """One request whose answer comes in two reads, cut at a place."""
    put(place)
    stage, emitted = stage_of(backend)
    await backend.warm(1)  # and no collection of garbage, hundreds of times
    stage.lane = backend.lane(stage)
    driving = asyncio.create_task(stage.drive())
    while not any(map(reads_of, stage.flights)):  # noqa: ASYNC110 - reading has no event
        await asyncio.sleep(0)
    release()
    await driving
    [record] = emitted
    return record


def reads_of(flight):
    """How many reads of its answer came so far."""
    return flight.reads if hasattr(flight, "reads") else len(flight.watch.marks)


@pytest.mark.parametrize("name", STREAMS)
async def test_cut_at_every_byte_a_record_of_the_lane_is_that_of_the_general_way(name):
    protocol = STREAMS[name]
    answer, _ = chunked(protocol)
    on_lane = 0
    async with cutting(answer) as (port, put, release):
        address = f"http://127.0.0.1:{port}"
        async with (
            opened(address, "general", protocol.dialect) as general,
            opened(address, "wire", protocol.dialect) as wire,
        ):
            for place in range(1, len(answer), 1 if name in PLAIN else 7):
                theirs = await cut(general, put, release, place)
                ours = await cut(wire, put, release, place)
                assert fixed(stated(ours)) == fixed(stated(theirs))
                assert theirs.stamps == "kernel"
                on_lane += hasattr(ours, "line")
    if name in PLAIN:
        assert on_lane > 0.9 * len(answer)
    elif name != "vllm chat, reasoning":
        assert on_lane == 0


def sources():
    """Sources of prompts that the lane makes itself."""
    for isl in ("1", "4", "5", "6", "64", "70000", "5..200"):
        for osl in ("1", "128", "1..300"):
            yield PromptSource(3, parse_lengths(isl), parse_lengths(osl), salt=77)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("headers", [{}, {"X-Request-Id": "mine"}, {"X-More": "1"}])
async def test_the_bytes_of_every_request_are_those_of_the_general_way(endpoint, headers):
    body = Body(sampling={"temperature": 0.7}, extra={"priority": 3})
    dialect = OpenAiDialect("vllm", endpoint, body)
    draw = random.Random(0)
    async with opened("http://127.0.0.1:9", dialect=dialect, headers=headers) as backend:
        for source in sources():
            stage, _ = stage_of(backend, source, number=draw.randrange(1, 1000))
            lane = backend.lane(stage)
            assert lane is not None
            for _ in range(20):
                agent, seq = draw.randrange(2 ** draw.randrange(1, 31)), draw.randrange(2**31)
                ready = stage.ready(agent, seq)
                assert lane.prepare(agent, seq).payload == ready.prepared.payload
                assert lane.prepare(agent, seq).request == replace_id(ready.request)


def replace_id(request):
    return replace(request, id="")


async def test_what_is_not_plain_has_no_lane():
    tokens, four = parse_lengths("8"), parse_lengths("4")
    plain = PromptSource(0, tokens, four)
    async with opened("http://127.0.0.1:9") as backend:
        assert backend.lane(stage_of(backend, plain)[0]) is not None
        encoding = replace(plain, tokenizer=object())
        assert backend.lane(stage_of(backend, encoding)[0]) is None
        virtual, _ = stage_of(backend, plain)
        virtual.origin = None
        assert backend.lane(virtual) is None
    async with opened("http://127.0.0.1:9", stamps="user") as backend:
        assert backend.lane(stage_of(backend, plain)[0]) is None
    whole = OpenAiDialect("vllm", body=Body(streaming=False))
    ollama = PROTOCOLS["ollama generate"].dialect
    for client, dialect in (
        ("general", None),
        ("aiohttp", None),
        ("wire", whole),
        ("wire", ollama),
    ):
        async with opened("http://127.0.0.1:9", client, dialect) as backend:
            assert backend.lane(stage_of(backend, plain)[0]) is None


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text, finish="null", more=b""):
    return b'data: {"choices":[{"index":0,"text":"%b","finish_reason":%b}]%b}\n\n' % (
        text,
        finish.encode(),
        more,
    )


USAGE = b',"usage":{"prompt_tokens":8,"completion_tokens":%d}'


def framed(*events):
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in events) + b"0\r\n\r\n"


@asynccontextmanager
async def serving(answers):
    """A server that gives one answer after the other; None closes, "" says nothing."""
    given = iter(answers)
    heard = []

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                heard.append(await reader.readexactly(int(length)))
                if (answer := next(given)) is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()
        await server.wait_closed()


GOOD = framed(event(b"a"), event(b"b", '"length"'), event(b"", more=USAGE % 2))
ENDS = {
    "plain": (GOOD, "ok"),
    "a text that is no UTF-8": (framed(event(b"\xff", '"stop"', USAGE % 1)), "bad_stream"),
    "no finish reason": (framed(event(b"a", more=USAGE % 1)), "truncated"),
    "given up": (framed(event(b"a", '"abort"', USAGE % 1)), "server_error"),
    "an error event": (framed(b'data: {"error":{"message":"no"}}\n\n'), "server_error"),
    "more tokens than chunks": (framed(event(b"a", '"stop"', USAGE % 3)), "ok"),
    "no usage": (framed(event(b"a", '"stop"')), "ok"),
    "a trailer": (GOOD[:-2] + b"X-Trailer: 1\r\n\r\n", "ok"),
    "an extension of the last chunk": (GOOD[:-5] + b"0;x=y\r\n\r\n", "ok"),
    "a last size of three digits": (GOOD[:-5] + b"000\r\n\r\n", "ok"),
    "an empty body": (HEAD + b"0\r\n\r\n", "truncated"),
    "events that end with CRLF": (GOOD.replace(b"\n\n\r", b"\r\n\r\n\r"), "bad_stream"),
    "an error in the middle": (
        framed(
            event(b"a"),
            b'data: {"error":{"message":"no"}}\n\n',
            event(b"b", '"length"'),
            event(b"", more=USAGE % 2),
        ),
        "server_error",
    ),
    "refused": (b"HTTP/1.1 429 Slow\r\nContent-Length: 2\r\n\r\nno", "rejected"),
    "a length": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b"
        % (len(event(b"a", '"stop"')), event(b"a", '"stop"')),
        "ok",
    ),
    "not HTTP": (b"\x16\x03\x01 hello\r\n\r\n", "bad_stream"),
    "a chunk without a size": (HEAD + b"zz\r\nabc\r\n0\r\n\r\n", "bad_stream"),
    "a long answer": (framed(*[event(b"x" * 500)] * 400, event(b"y", '"stop"')), "ok"),
    "closed at once": (None, "bad_stream"),
    "silent": (b"", "timed_out"),
    "silent in the middle": (GOOD[:-40], "timed_out"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_an_answer_of_any_kind_ends_as_it_does_the_general_way(name):
    answer, outcome = ENDS[name]
    found = {}
    for client in ("wire", "general"):
        async with serving([answer, answer]) as (address, _), opened(address, client) as backend:
            stage, emitted = stage_of(backend, timeout=0.2 if outcome == "timed_out" else 20.0)
            await stage.warm()
            await asyncio.wait_for(stage.drive(), 20)
            [record] = emitted
            found[client] = fixed(stated(record))
            assert not stage.flights
            assert hasattr(record, "line") == (client == "wire" and name == "plain")
    assert found["wire"] == found["general"]
    assert found["wire"]["outcome"] == outcome


async def test_a_line_of_the_lane_holds_every_field_of_a_record():
    async with serving([GOOD]) as (address, _), opened(address) as backend:
        stage, emitted = stage_of(backend)
        await stage.warm()
        await asyncio.wait_for(stage.drive(), 20)
    [record] = emitted
    line = orjson.loads(record.line())
    assert list(line) == [each.name for each in fields(RequestRecord)]
    whole = stated(record)
    for name in ("due", "sent", "ended", "first_token", "last_token", "latency", "ttft", "tpot"):
        assert getattr(record, name) == pytest.approx(getattr(whole, name), abs=2e-9)


async def test_a_kept_connection_that_closes_is_tried_once_more():
    answers = [GOOD, GOOD, GOOD, None, GOOD, GOOD]
    async with serving(answers) as (address, heard), opened(address) as backend:
        stage, emitted = stage_of(backend, requests=5)
        await stage.warm()
        await asyncio.wait_for(stage.drive(), 20)
    records = [stated(record) for record in emitted][:5]
    assert [record.outcome for record in records] == ["ok"] * 5
    assert [record.retries for record in records] == [0, 0, 0, 1, 0]
    assert heard[3] == heard[4]
    assert records[3].connect is not None


@pytest.mark.parametrize("client", ["wire", "general"])
async def test_what_is_in_flight_at_the_end_is_cancelled_and_keeps_what_came(client):
    async with serving([GOOD, GOOD[:-90]]) as (address, _), opened(address, client) as backend:
        stage, emitted = stage_of(backend, requests=None)
        await stage.warm()
        driving = asyncio.create_task(stage.drive())
        while len(emitted) < 1 or not any(map(reads_of, stage.flights)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        stage.abort()
        await driving
    first, second = map(stated, emitted)
    assert (first.outcome, first.phase) == ("ok", "measured")
    assert (second.outcome, second.phase, second.output_tokens) == ("cancelled", "drain", None)
    assert (second.chunks, second.status, second.stamps) == (2, 200, "kernel")
    assert second.sent < second.first_token <= second.last_token < second.ended
    assert not stage.flights


async def test_an_error_in_taking_a_record_ends_the_stage():
    def emit(_record):
        raise OSError("no more")

    async with serving([GOOD] * 3) as (address, _), opened(address) as backend:
        stage, _ = stage_of(backend, requests=3, emit=emit)
        await stage.warm()
        with pytest.raises(OSError, match="no more"):
            await asyncio.wait_for(stage.drive(), 20)
