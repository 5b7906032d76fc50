"""Recorded responses of real servers, read pure and through a real socket, to known counts."""

import asyncio
import time
from pathlib import Path

import pytest

from contract.records import ServerFacts
from loadgen.backends.base import Request, WireResponse
from loadgen.backends.llama_server import LlamaServerDialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.stopwatch import Stopwatch
from loadgen.wire import ServerBackend

FOLDER = Path(__file__).parents[1] / "golden" / "transcripts"
CUT = b"\n\n<<<<< cut >>>>>\n\n"
MARK = b"----- response (raw bytes as received, HTTP framing included)\n"

VLLM = "vllm_0.32.0"
TRANSFORMERS = "transformers_serve_5.23.0"
LLAMA_PYTHON = "llama_cpp_python_0.3.36"
LLAMA = "llama_server"

# file, title: outcome, status, chunks with content, prompt tokens, output tokens
CASES = {
    (VLLM, "completions, stream, include_usage"): ("ok", 200, 6, 7, 6),
    (VLLM, "completions, stream, no usage"): ("ok", 200, 4, None, None),
    (VLLM, "completions, stream, continuous_usage_stats"): ("ok", 200, 3, 7, 4),
    (VLLM, "completions, stop string"): ("ok", 200, 8, 1, 8),
    (VLLM, "completions, stream, server flags"): ("ok", 200, 4, 7, 4),
    (VLLM, "chat, stream, include_usage"): ("ok", 200, 5, 7, 5),
    (VLLM, "POST /v1/chat/completions"): ("ok", 200, 2, None, None),
    (VLLM, "completions, no stream "): ("bad_stream", 200, 0, None, None),
    (VLLM, "error: unknown model"): ("rejected", 404, 0, None, None),
    (VLLM, "error: prompt too long"): ("rejected", 400, 0, None, None),
    ("vllm_0.32.0_overload", "overload"): ("rejected", 503, 0, None, None),
    ("vllm_0.32.0_engine_killed", "stream while"): ("server_error", 200, 4, None, None),
    ("vllm_0.32.0_engine_killed", "health 1 s after"): ("server_error", 503, 0, None, None),
    (TRANSFORMERS, "completions, stream, include_usage"): ("ok", 200, 6, 7, 6),
    (TRANSFORMERS, "completions, stream (warm)"): ("ok", 200, 6, 7, 6),
    (TRANSFORMERS, "chat, stream, include_usage"): ("ok", 200, 5, 7, 5),
    (TRANSFORMERS, "error: unknown model"): ("server_error", 500, 0, None, None),
    (TRANSFORMERS, "error: unknown request fields"): ("rejected", 422, 0, None, None),
    (LLAMA_PYTHON, "completions, stream, include_usage"): ("ok", 200, 6, None, None),
    (LLAMA_PYTHON, "chat, stream, include_usage"): ("ok", 200, 5, None, None),
    (LLAMA_PYTHON, "error: bad max_tokens"): ("server_error", 500, 0, None, None),
    (LLAMA_PYTHON, "error: prompt too long"): ("truncated", 200, 0, None, None),
    (LLAMA, "completions, stream, include_usage"): ("ok", 200, 4, 8, 4),
    (LLAMA, "chat, stream, include_usage"): ("ok", 200, 4, 7, 4),
    (LLAMA, "native completion, stream (what"): ("ok", 200, 5, 8, 5),
    (LLAMA, "native completion, stream, prompt partly"): ("ok", 200, 3, 10, 3),
    (LLAMA, "native completion, stream, while idle-asleep"): ("ok", 200, 3, 4, 3),
    (LLAMA, "the same, warm"): ("ok", 200, 3, 4, 3),
    (LLAMA, "error: bad JSON"): ("server_error", 500, 0, None, None),
    (LLAMA, "error: prompt too long"): ("rejected", 400, 0, None, None),
}
each_case = pytest.mark.parametrize(
    ("file", "title", "known"),
    [(*case, known) for case, known in CASES.items()],
    ids=[f"{file}: {title.strip()}" for file, title in CASES],
)


def dialect_of(file, title):
    """The one whose request was recorded."""
    native = file == LLAMA and title.startswith(("native", "the same", "error: prompt"))
    return LlamaServerDialect() if native else OpenAiDialect("vllm")


def recorded(file, title):
    """The raw bytes of one recorded response."""
    text = (FOLDER / f"{file}.txt").read_bytes()
    start = text.index(b"\n##### " + title.encode())
    end = text.find(b"\n\n##### ", start + 1)
    raw = text[start : end if end > 0 else len(text)].partition(MARK)[2]
    if CUT in raw:  # the cut goes through two HTTP chunks: leave both out
        before, _, after = raw.partition(CUT)
        boundary = b"\n\n\r\n"
        raw = before[: before.rindex(boundary) + 4] + after[after.index(boundary) + 4 :]
    return raw.removesuffix(b"\n\n") if b"\r\n0\r\n\r\n" in raw else raw


def parsed(raw):
    """The response with one read per HTTP chunk."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in fields if ": " in line)
    folded = {name.lower(): value for name, value in headers.items()}
    if folded.get("transfer-encoding") == "chunked":
        reads = list(dechunked(body))
    else:
        reads = [body[: int(folded["content-length"])]]
    return WireResponse(int(first.split()[1]), headers, reads)


def dechunked(body):
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return
        yield rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        body = rest[length + 2 :]


def summary(facts):
    return (
        facts.outcome,
        facts.status,
        len(facts.content),
        facts.prompt_tokens,
        facts.output_tokens,
    )


@each_case
def test_a_recorded_response_comes_to_its_known_counts(file, title, known):
    facts = dialect_of(file, title).read(parsed(recorded(file, title)))

    assert summary(facts) == known
    assert (facts.error is None) == (facts.outcome == "ok")
    assert (facts.finish_reason == "length") == (facts.outcome == "ok")


async def replay(raw, dialect):
    """What the wire client makes of `raw` when a server answers every POST with it."""

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
        writer.write(raw)
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    backend = ServerBackend(dialect, url, "any")
    backend.connect()
    try:
        watch = Stopwatch(time.monotonic, due=time.monotonic())
        return await backend.perform(Request("bada", 4), watch, 30), watch
    finally:
        await backend.close()
        server.close()
        await server.wait_closed()


@each_case
@pytest.mark.asyncio
async def test_the_wire_client_reads_the_same_from_a_socket(file, title, known):
    facts, watch = await replay(recorded(file, title), dialect_of(file, title))

    assert summary(facts) == known
    assert all(0 <= mark < len(watch.marks) for mark in facts.content)


def test_what_vllm_recorded_about_one_request():
    raw = recorded(VLLM, "completions, stream, server flags")

    server = OpenAiDialect("vllm").read(parsed(raw)).server

    assert server == ServerFacts(
        queue=pytest.approx(2.2364e-05),
        prefill=pytest.approx(0.010830392),
        decode=pytest.approx(0.018604038),
        cached_prompt_tokens=0,
    )


def test_what_llama_server_recorded_about_one_request():
    raw = recorded(LLAMA, "completions, stream, include_usage")

    assert OpenAiDialect("llama-server").read(parsed(raw)).server == ServerFacts(
        prefill=pytest.approx(0.004028), decode=pytest.approx(0.000617), cached_prompt_tokens=7
    )


@pytest.mark.parametrize(
    ("title", "prefill", "decode", "cached"),
    [
        ("native completion, stream (what", 0.028995, 0.00071, 0),
        ("native completion, stream, while idle-asleep", 0.965424, 0.019988, 0),
        ("the same, warm", 0.010699, 0.020408, 3),
    ],
)
def test_what_llama_server_recorded_natively(title, prefill, decode, cached):
    assert LlamaServerDialect().read(parsed(recorded(LLAMA, title))).server == ServerFacts(
        prefill=pytest.approx(prefill),
        decode=pytest.approx(decode),
        cached_prompt_tokens=cached,
    )


def test_the_message_of_a_dead_engine_is_kept():
    facts = OpenAiDialect("vllm").read(parsed(recorded("vllm_0.32.0_engine_killed", "stream")))

    assert facts.error.startswith("EngineCore encountered an issue.")
