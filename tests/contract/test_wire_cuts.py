"""A stream of any protocol, cut in two at every byte on its way through a socket."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import accumulate

import pytest

from loadgen.backends.base import Request
from loadgen.stopwatch import Ids, Stopwatch, record
from loadgen.wire import ServerBackend, WireOptions
from tests.contract.protocols import PROTOCOLS, WORDS

pytestmark = pytest.mark.asyncio
INSTANTS = ("due", "sent", "first_token", "last_token", "ended", "connect")


def chat(word):
    """A chunk that reasons, up to the third word."""
    name = "reasoning_content" if word in WORDS[:2] else "content"
    return {"choices": [{"index": 0, "delta": {name: word}, "finish_reason": None}]}


def completion(word):
    """A chunk, of which the last says that it is."""
    finish = "length" if word == WORDS[-1] else None
    return {"choices": [{"index": 0, "text": word, "finish_reason": finish}]}


def generated(word):
    """An event of TGI, of which the last brings a token as well."""
    last = PROTOCOLS["tgi"].end("length", len(WORDS))[0]
    token = PROTOCOLS["tgi"].chunk(word)
    return last | {"token": token["token"]} if word == WORDS[-1] else token


def compact(document):
    """As servers write it whose chunks are counted instead of decoded."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


CHAT, COMPLETION = PROTOCOLS["vllm chat"], PROTOCOLS["openai completions"]
REASONING = replace(CHAT, chunk=chat)
STREAMS = PROTOCOLS | {
    "vllm chat, reasoning": REASONING,
    "openai completions, no chunk after the last word": replace(
        COMPLETION, chunk=completion, end=lambda *said: COMPLETION.end(*said)[1:]
    ),
    **{
        f"{name}, compact": replace(PROTOCOLS[name], frame=lambda d: compact(d) + b"\n")
        for name in ("ollama generate", "ollama chat")
    },
    "tgi, compact, no event after the last word": replace(
        PROTOCOLS["tgi"],
        frame=lambda d: b"data: " + compact(d) + b"\n\n",
        chunk=generated,
        end=lambda *_said: [],
    ),
}


def chunked(protocol):
    """The answer, an HTTP chunk for each object, and where on the wire each of its words ends."""
    reads = protocol.reads()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {protocol.kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed = [b"%x\r\n%b\r\n" % (len(read), read) for read in reads]
    ends = accumulate(map(len, framed), initial=len(head))
    words = [end - len(b"\r\n") for end in list(ends)[1 : len(WORDS) + 1]]
    return head.encode() + b"".join(framed) + b"0\r\n\r\n", words


def until_closed(protocol):
    """The same, ending with its connection."""
    reads = protocol.reads()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {protocol.kind}\r\n\r\n"
    ends = list(accumulate(map(len, reads), initial=len(head)))
    return head.encode() + b"".join(reads), ends[1 : len(WORDS) + 1]


@asynccontextmanager
async def cutting(answer):
    """A server that sends `answer` in two parts, `put` the cut and `release` the second one."""
    parts, released = [answer, b""], asyncio.Event()

    def put(place):
        parts[:] = answer[:place], answer[place:]
        released.clear()

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length))
                writer.write(parts[0])
                await released.wait()
                writer.write(parts[1])
                await writer.drain()
                if b"chunked" not in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], put, released.set
    finally:
        server.close()
        await server.wait_closed()


async def asked(backend, release):
    """One exchange whose second part is sent once the first has been read."""
    watch = Stopwatch(time.monotonic, due=time.monotonic())
    task = asyncio.create_task(backend.perform(Request("a prompt", 4), watch, 20.0))
    while not watch.marks:  # noqa: ASYNC110 - reading has no event
        await asyncio.sleep(0)
    release()
    facts = await task
    done = record(watch, facts, Ids("r", 1, 1, 0, 0), "measured", time.monotonic())
    fixed = {name: value for name, value in asdict(done).items() if name not in INSTANTS}
    return fixed | {"gaps_us": len(done.gaps_us)}, facts, watch, done


@pytest.mark.parametrize("framed", [chunked, until_closed])
@pytest.mark.parametrize("protocol", STREAMS.values(), ids=STREAMS)
async def test_cut_at_every_byte_the_record_is_the_same_and_an_instant_that_of_the_last_byte(
    protocol, framed
):
    answer, words = framed(protocol)
    stamps = "kernel" if framed is chunked else "user"
    async with cutting(answer) as (port, put, release):
        options = WireOptions(stamps=stamps)
        backend = ServerBackend(protocol.dialect, f"http://127.0.0.1:{port}", "m", options=options)
        backend.connect()
        put(len(answer))
        whole, facts, _, _ = await asked(backend, release)
        assert (facts.outcome, whole["chunks"], whole["stamps"]) == ("ok", 4, stamps)
        reasons = whole.pop("first_answer") is not None
        assert reasons == (protocol is REASONING)
        for place in range(1, len(answer)):
            put(place)
            apart, facts, watch, done = await asked(backend, release)
            answered = apart.pop("first_answer")
            assert apart == whole
            first, second = watch.marks
            instants = [first if end <= place else second for end in words]
            assert [watch.marks[mark] for mark in facts.content] == instants
            assert (done.first_token, done.last_token) == (instants[0], instants[-1])
            assert answered == (instants[2] if reasons else None)
        await backend.close()
