"""The bench's server of known token times: its streams are the protocols, its log is true."""

import json
import shutil
import socket
import time

import numpy as np
import pytest

from bench.truth import DIALECTS, Truth, TruthServer, build
from loadgen.backends.base import Request, WireResponse
from loadgen.backends.openai import OpenAiDialect
from loadgen.sse import events

ROUTES = {
    "completions": ("/v1/completions", {"prompt": "a b c", "max_tokens": 7}),
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 7},
    ),
    "ollama generate": ("/api/generate", {"prompt": "a b c", "options": {"num_predict": 7}}),
    "ollama chat": (
        "/api/chat",
        {"messages": [{"role": "user", "content": "a b c"}], "options": {"num_predict": 7}},
    ),
    "tgi": ("/generate_stream", {"inputs": "a b c", "parameters": {"max_new_tokens": 7}}),
}


@pytest.fixture(scope="module", autouse=True)
def binary():
    """The server, compiled once."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")  # the bench says so too
    return build()


class Caller:
    """A kept-alive connection, read chunk by chunk, with an instant for every one."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, path, document, method="POST"):
        body = json.dumps(document, separators=(",", ":")).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def head(self):
        status = int(self.file.readline().split()[1])
        fields = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            fields[name.lower()] = value
        return status, fields

    def chunks(self):
        """(body of each HTTP chunk, when it was whole) to the end of the reply."""
        while size := int(self.file.readline(), 16):
            data = self.file.read(size)
            assert self.file.readline() == b"\r\n"
            yield data, time.monotonic_ns()
        assert self.file.readline() == b"\r\n"

    def page(self, path):
        self.send(path, {}, "GET")
        status, fields = self.head()
        return status, json.loads(self.file.read(int(fields["content-length"])))


def converse(requests, **options):
    """Each request's head and chunks over one connection, and the server's log."""
    answers = []
    with TruthServer(**options) as server:
        caller = Caller(server.port)
        for path, document in requests:
            caller.send(path, document)
            answers.append((caller.head(), list(caller.chunks())))
        caller.close()
    return answers, server.truth


def asked(dialect, **more):
    path, document = ROUTES[dialect]
    return path, {**document, **more}


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("per_write", [1, 3, 8])
@pytest.mark.parametrize("framing", [{}, {"chunk_per_event": True}, {"early_head": True}])
def test_our_own_dialect_reads_it(endpoint, per_write, framing):
    dialect = OpenAiDialect("vllm", endpoint)
    wire = dialect.render(Request(prompt="a b c d", output_tokens=7, seed=41), "truth")

    [((status, headers), chunks)], truth = converse(
        [(wire.path, json.loads(wire.body))], per_write=per_write, **framing
    )
    facts = dialect.read(
        WireResponse(status=status, headers=headers, reads=[data for data, _ in chunks])
    )

    assert (facts.outcome, facts.finish_reason) == ("ok", "length")
    assert (facts.prompt_tokens, facts.output_tokens, len(facts.content)) == (4, 7, 7)
    assert truth.requests["nonce"].tolist() == [41]
    assert truth.tokens == 7


def test_ollama_lines_end_with_the_true_counters():
    for dialect, text in (
        ("ollama generate", lambda line: line["response"]),
        ("ollama chat", lambda line: line["message"]["content"]),
    ):
        [((status, headers), chunks)], truth = converse([asked(dialect)], ttft=5, gap=1)
        *tokens, last = [json.loads(line) for line in body(chunks).splitlines()]
        request, times = truth.requests[0], truth.token_times(0)

        assert (status, headers["content-type"]) == (200, "application/x-ndjson")
        assert [text(line) for line in tokens] == [" tok"] * 7
        assert (last["done"], last["done_reason"]) == (True, "length")
        assert (last["prompt_eval_count"], last["eval_count"]) == (3, 7)
        assert last["prompt_eval_duration"] == times[0] - request["arrival"]
        assert last["eval_duration"] <= request["ended"] - times[0]


def test_tgi_events_number_the_tokens_and_end_with_the_text():
    [((status, _), chunks)], _ = converse([asked("tgi")], per_write=2)
    documents = [json.loads(event.data) for event in events([data for data, _ in chunks])]

    assert status == 200
    assert [document["index"] for document in documents] == list(range(1, 8))
    assert [document["generated_text"] for document in documents[:-1]] == [None] * 6
    assert documents[-1]["generated_text"] == " tok" * 7
    assert documents[-1]["details"]["generated_tokens"] == 7
    assert documents[-1]["details"]["input_length"] == 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_log_and_a_client_see_the_same_order(dialect):
    before = time.monotonic_ns()
    answers, truth = converse([asked(dialect, seed=n) for n in range(3)], ttft=3, gap=1)

    assert truth.requests["nonce"].tolist() == [0, 1, 2]
    assert truth.requests["stamped"].tolist()[1:] == [1, 1]
    assert truth.requests["connection"].tolist() == [0, 0, 0]
    assert [DIALECTS[kind] for kind in truth.requests["dialect"]] == [dialect] * 3
    for number, (_, chunks) in enumerate(answers):
        request, times = truth.requests[number], truth.token_times(number)
        seen = [instant for _, instant in chunks][-7:]
        assert before <= request["arrival"] <= request["received"] <= times[0] <= seen[0]
        assert (np.diff(times) > 0).all()
        assert all(sent <= instant for sent, instant in zip(times, seen, strict=True))
        assert times[-1] <= request["ended"] <= truth.stopped
        assert (times >= request["arrival"] + 3_000_000 + 1_000_000 * np.arange(7)).all()


def test_a_request_may_be_numbered_in_its_prompt():
    numbered = [asked("completions", prompt=f"prompt number {n} a", seed=9) for n in (12, 7)]
    _, truth = converse([*numbered, asked("chat")], nonce="prompt number")

    assert truth.requests["nonce"].tolist() == [12, 7, -1]


def test_a_write_carries_its_tokens_and_one_instant():
    [(_, chunks)], truth = converse([asked("completions", max_tokens=10)], per_write=4, gap=1)

    assert [data.count(b"tok") for data, _ in chunks] == [4, 4, 2]
    assert len(truth.writes) == 3
    assert truth.token_times(0).tolist() == np.repeat(truth.writes, [4, 4, 2]).tolist()


def test_usage_comes_when_it_is_asked_for():
    plain, counted = (asked("chat"), asked("chat", stream_options={"include_usage": True}))
    [(_, without), (_, with_usage)], _ = converse([plain, counted])

    assert b"usage" not in body(without)
    assert b'"completion_tokens":7' in body(with_usage)
    assert body(without).endswith(b"data: [DONE]\n\n")


def splitmix64(state):
    """The generator the server jitters its gaps with (Steele, Lea, Flood 2014)."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield (z ^ (z >> 31)) >> 11


def test_jitter_follows_its_seed():
    nonce, seed = 5, 6  # this schedule runs up to 21 ms behind the plain one
    document = asked("completions", seed=nonce, max_tokens=50)
    [_], truth = converse([document], gap=5, jitter=1, seed=seed)
    draws = splitmix64((seed * 0x9E3779B97F4A7C15 + nonce) % 2**64)
    gaps = [5e6 * (next(draws) / 2**52) for _ in range(49)]
    due = int(truth.requests["arrival"][0]) + np.concatenate([[0], np.cumsum(gaps)])

    assert (truth.token_times(0) >= due - 50).all()  # each gap is cut to whole nanoseconds


def test_one_token_replies_keep_the_connection():
    answers, truth = converse([asked("completions", max_tokens=1)] * 20)

    assert [body(chunks).count(b"tok") for _, chunks in answers] == [1] * 20
    assert truth.most_in_flight() == 1
    assert set(truth.requests["connection"]) == {0}


def test_connections_beside_each_other_are_in_flight_together():
    with TruthServer(ttft=20) as server:
        callers = [Caller(server.port) for _ in range(300)]
        for number, caller in enumerate(callers):
            caller.send(*asked("completions", seed=number))
        for caller in callers:
            caller.head()
            assert body(caller.chunks()).count(b"tok") == 7
            caller.close()

    assert sorted(server.truth.requests["nonce"]) == list(range(300))
    assert 2 <= server.truth.most_in_flight() <= 300


def test_a_client_that_leaves_is_cut_short_in_the_log():
    with TruthServer(gap=1000) as server:
        caller = Caller(server.port)
        caller.send(*asked("completions"))
        caller.head()
        next(caller.chunks())
        caller.close()

        other = Caller(server.port)
        while other.page("/stats")[1]["in_flight"]:
            pass
        other.close()

    [request] = server.truth.requests
    assert (request["written"], request["ended"]) == (1, 0)


def test_its_pages():
    with TruthServer(model="m1") as server:
        caller = Caller(server.port)
        assert caller.page("/v1/models")[1]["data"][0]["id"] == "m1"
        assert caller.page("/version") == (200, {"version": "0.0.0-truth"})
        assert caller.page("/health") == (200, {})
        assert caller.page("/nothing")[0] == 404
        caller.close()


def test_a_file_that_is_no_log_is_refused(tmp_path):
    (tmp_path / "log").write_bytes(bytes(64))

    with pytest.raises(ValueError, match="is no log of the truth server"):
        Truth.read(tmp_path / "log")


def body(chunks):
    return b"".join(data for data, _ in chunks)
