"""What every server backend owes, whatever its protocol: one suite over all dialects.

The streams are built by hand as the servers' documentation and source give them; what real
servers sent is in test_transcripts.py.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.records import OUTCOMES, ServerFacts
from loadgen.backends.base import Dialect, Raw, Request, WireResponse
from loadgen.backends.llama_server import LlamaServerDialect, LlamaServerOpenAiDialect
from loadgen.backends.ollama import OllamaDialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.backends.tgi import TgiDialect
from loadgen.stopwatch import PerMark

PROMPT_TOKENS = 11
WORDS = (" a", " é😀", ' "\\', " d")


def sse(document):
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def tight_sse(document):
    """As TGI before 2.1 writes it, after an idle comment."""
    return b": idle\n\ndata:" + json.dumps(document).encode() + b"\r\n\r\n"


def line(document):
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class Protocol:
    """How one protocol frames a stream of words, its end, and an error in its midst."""

    dialect: Dialect
    kind: str  # content type
    frame: Callable[[dict], bytes]
    chunk: Callable[[str], dict]
    end: Callable[[str, int], list[dict]]  # finish reason, tokens generated
    failure: dict
    finish: tuple[str, str]  # how it says that the length, or the end token, was reached
    refusal: bytes = b'{"error":"no such model"}'

    def reads(self, words=WORDS, finish=0, tokens=None):
        """One read per object."""
        last = self.end(self.finish[finish], len(words) if tokens is None else tokens)
        return [self.frame(d) for d in [*map(self.chunk, words), *last]]

    def read(self, reads, status=200, **more):
        return self.dialect.read(WireResponse(status, {"Content-Type": self.kind}, reads, **more))


def openai_end(empty):
    def end(reason, tokens):
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
        finish = {"index": 0, **empty, "finish_reason": reason}
        return [{"choices": [finish]}, {"choices": [], "usage": usage}]

    return end


def ollama_end(empty):
    def end(reason, tokens):
        counters = {
            "done_reason": reason,
            "total_duration": 500_000_000,
            "load_duration": 20_000_000,
            "prompt_eval_count": PROMPT_TOKENS,
            "prompt_eval_duration": 130_000_000,
            "eval_count": tokens,
            "eval_duration": 250_000_000,
        }
        return [{"model": "m", "created_at": "2026-11-20T10:00:00Z", **empty, "done": True}
                | {name: value for name, value in counters.items() if value}]  # fmt: skip

    return end


def tgi_chunk(word):
    token = {"id": 7, "text": word, "logprob": -0.5, "special": False}
    return {"index": 1, "token": token, "generated_text": None, "details": None}


def tgi_end(reason, tokens):
    details = {"finish_reason": reason, "generated_tokens": tokens, "seed": 0}
    last = {"id": 2, "text": "</s>", "logprob": -0.1, "special": True}
    return [{"index": 9, "token": last, "generated_text": "all",
             "details": details | {"input_length": PROMPT_TOKENS}}]  # fmt: skip


def llama_end(reason, tokens):
    timings = {"cache_n": 3, "prompt_n": 8, "prompt_ms": 130.0, "predicted_ms": 250.0}
    return [{"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": reason,
             "tokens_predicted": tokens, "tokens_evaluated": PROMPT_TOKENS, "truncated": False,
             "timings": timings}]  # fmt: skip


def completion(word):
    return {"choices": [{"index": 0, "text": word, "finish_reason": None}]}


def chat(word):
    return {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}


OPENAI = {
    "kind": "text/event-stream; charset=utf-8",
    "frame": sse,
    "failure": {"error": {"message": "it died", "type": "InternalServerError", "code": 500}},
    "finish": ("length", "stop"),
}
OLLAMA = {
    "kind": "application/x-ndjson",
    "frame": line,
    "failure": {"error": "it died"},
    "finish": ("length", "stop"),
}
PROTOCOLS = {
    "openai completions": Protocol(
        OpenAiDialect(), chunk=completion, end=openai_end({"text": ""}), **OPENAI
    ),
    "vllm chat": Protocol(
        OpenAiDialect("vllm", "chat"), chunk=chat, end=openai_end({"delta": {}}), **OPENAI
    ),
    "llama-server completions": Protocol(
        LlamaServerOpenAiDialect("completions"),
        chunk=completion, end=openai_end({"text": ""}), **OPENAI,
    ),
    "llama-server native": Protocol(
        LlamaServerDialect(),
        chunk=lambda word: {"index": 0, "content": word, "tokens": [7], "stop": False},
        end=llama_end, **OPENAI | {"finish": ("limit", "eos")},
    ),
    "ollama generate": Protocol(
        OllamaDialect(),
        chunk=lambda word: {"model": "m", "response": word, "done": False},
        end=ollama_end({"response": ""}), **OLLAMA,
    ),
    "ollama chat": Protocol(
        OllamaDialect("chat"),
        chunk=lambda word: {"message": {"role": "assistant", "content": word}, "done": False},
        end=ollama_end({"message": {"role": "assistant", "content": ""}}), **OLLAMA,
    ),
    "tgi": Protocol(
        TgiDialect(), "text/event-stream", tight_sse, tgi_chunk, tgi_end,
        {"error": "Request failed during generation: it died", "error_type": "generation"},
        ("length", "eos_token"),
        b'{"error":"no such model","error_type":"validation"}',
    ),
}  # fmt: skip
each = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


@each
def test_a_request_asks_for_a_stream_of_so_many_greedy_tokens(protocol):
    wire = protocol.dialect.render(Request('a "prompt"', output_tokens=4321, seed=77), "m")

    body = json.loads(wire.body)
    assert wire.path.startswith("/")
    assert json.dumps(body).count("4321") in (1, 2)  # vLLM takes it as the least as well
    assert 'a \\"prompt\\"' in json.dumps(body)
    assert "77" in json.dumps(body)
    assert body.get("stream", wire.path == "/generate_stream") is True


@each
def test_a_complete_stream_is_ok_with_the_counts_of_its_server(protocol):
    facts = protocol.read(protocol.reads(tokens=5))

    assert (facts.outcome, facts.error, facts.status) == ("ok", None, 200)
    assert facts.content == [0, 1, 2, 3]
    assert (facts.prompt_tokens, facts.prompt_source) == (PROMPT_TOKENS, "server")
    assert (facts.output_tokens, facts.output_source) == (5, "server")
    assert facts.finish_reason == "length"


@each
def test_an_early_end_is_ok_and_says_stop(protocol):
    facts = protocol.read(protocol.reads(words=(" a",), finish=1))

    assert (facts.outcome, facts.finish_reason, facts.output_tokens) == ("ok", "stop", 1)


@each
def test_an_empty_chunk_is_no_content(protocol):
    assert protocol.read(protocol.reads(words=(" a", "", " c"))).content == [0, 2]


@each
def test_a_reply_without_a_token_counts_none(protocol):
    facts = protocol.read(protocol.reads(words=(), finish=1, tokens=0))

    assert (facts.outcome, facts.output_tokens, list(facts.content)) == ("ok", 0, [])


@each
def test_facts_are_the_same_from_single_bytes_and_their_instants_those_of_the_last_byte(protocol):
    reads = protocol.reads()
    body = b"".join(reads)
    ends = list(accumulate(map(len, reads)))

    whole, apart = protocol.read(reads), protocol.read([body[i : i + 1] for i in range(len(body))])

    assert replace(apart, content=()) == replace(whole, content=())
    assert [at + 1 for at in apart.content] == [ends[read] for read in whole.content]


@each
def test_cut_at_every_byte_into_two_reads_nothing_changes(protocol):
    body = b"".join(protocol.reads())
    whole = protocol.read([body])

    for place in range(len(body) + 1):
        halves = protocol.read([body[:place], body[place:]])
        assert replace(halves, content=()) == replace(whole, content=())
        assert len(halves.content) == len(WORDS)
        assert list(halves.content) == sorted(halves.content)


@each
def test_broken_off_at_every_byte_it_is_never_ok_and_keeps_what_came(protocol):
    body = b"".join(protocol.reads())

    for place in range(len(body)):
        facts = protocol.read([body[:place]], broken="bad_stream", detail="broken off")
        assert (facts.outcome, facts.error) == ("bad_stream", "broken off")
        assert len(facts.content) <= len(WORDS)


@each
def test_ended_at_every_byte_without_its_last_object_it_is_truncated_or_no_protocol(protocol):
    *most, last = [read for read in protocol.reads() if b'"usage"' not in read]
    body = b"".join(most)

    for place in range(len(body)):
        assert protocol.read([body[:place]]).outcome in ("truncated", "bad_stream")
    assert protocol.read(most).outcome == "truncated"
    assert protocol.read([*most, last]).outcome == "ok"


@each
def test_an_error_inside_a_200_is_the_outcome_and_keeps_what_came(protocol):
    reads = [*protocol.reads()[:2], protocol.frame(protocol.failure), *protocol.reads()[2:]]

    facts = protocol.read(reads)

    assert (facts.outcome, facts.content, facts.status) == ("server_error", [0, 1], 200)
    assert "it died" in facts.error


@each
def test_an_error_stated_beats_how_the_connection_ended(protocol):
    reads = [protocol.frame(protocol.failure)]

    assert protocol.read(reads, broken="bad_stream", detail="cut").outcome == "server_error"


@each
def test_a_timeout_keeps_what_came(protocol):
    facts = protocol.read(protocol.reads()[:2], broken="timed_out", detail="no end within 1 s")

    assert (facts.outcome, facts.content) == ("timed_out", [0, 1])


@each
@pytest.mark.parametrize(
    ("status", "outcome"), [(404, "rejected"), (400, "rejected"), (307, "bad_stream")]
)
def test_a_refusal_by_status(protocol, status, outcome):
    facts = protocol.read([protocol.refusal], status)

    assert (facts.outcome, facts.status, list(facts.content)) == (outcome, status, [])
    if status >= 400:
        assert facts.error == f"HTTP {status}: no such model"


@each
def test_a_busy_server_that_invites_again_rejects_and_a_broken_one_errs(protocol):
    busy = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'

    assert protocol.read([busy], 503).outcome == "rejected"
    assert protocol.read([b""], 503).outcome == "server_error"
    assert protocol.read([b"boom"], 500).outcome == "server_error"


@each
def test_no_answer_is_how_the_exchange_broke(protocol):
    facts = protocol.dialect.read(WireResponse(broken="unreachable", detail="connection refused"))

    assert (facts.outcome, facts.status, facts.error) == ("unreachable", None, "connection refused")


@each
def test_a_page_is_no_stream(protocol):
    answer = WireResponse(200, {"content-type": "text/html"}, [b"<html> Welcome"])

    facts = protocol.dialect.read(answer)

    assert facts.outcome == "bad_stream"
    assert "Welcome" in facts.error


KEYS = [
    "choices",
    "delta",
    "text",
    "content",
    "usage",
    "error",
    "finish_reason",
    "done",
    "response",
    "message",
    "done_reason",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "eval_count",
    "prompt_eval_duration",
    "eval_duration",
    "token",
    "special",
    "details",
    "generated_text",
    "input_length",
    "generated_tokens",
    "error_type",
    "stop",
    "stop_type",
    "tokens_evaluated",
    "tokens_predicted",
    "timings",
    "prompt_ms",
    "predicted_ms",
    "cache_n",
    "truncated",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=14,
)


@each
@settings(max_examples=60)
@given(st.lists(json_values, max_size=4), st.sampled_from([200, 404, 424, 503]))
def test_any_documents_come_to_a_known_outcome(protocol, documents, status):
    facts = protocol.read([protocol.frame(document) for document in documents], status)

    assert facts.outcome in OUTCOMES
    for tokens in (facts.output_tokens, facts.prompt_tokens):
        assert tokens is None or tokens >= 0


@each
@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_come_to_a_failure(protocol, body):
    assert protocol.read([body]).outcome in ("truncated", "bad_stream", "server_error")


SPLIT = {
    "ollama generate": ServerFacts(queue=0.12, prefill=0.13, decode=0.25),
    "ollama chat": ServerFacts(queue=0.12, prefill=0.13, decode=0.25),
    "llama-server native": ServerFacts(prefill=0.13, decode=0.25, cached_prompt_tokens=3),
    "tgi": None,
}


@pytest.mark.parametrize(("name", "server"), SPLIT.items(), ids=SPLIT)
def test_what_the_server_says_of_its_own_time(name, server):
    found = PROTOCOLS[name].read(PROTOCOLS[name].reads()).server

    if server is None:
        assert found is None
    else:
        for part in ("load", "queue", "prefill", "decode", "cached_prompt_tokens"):
            wanted = getattr(server, part)
            assert getattr(found, part) == (None if wanted is None else pytest.approx(wanted))


def chunked(reads):
    """Each read as one HTTP chunk, and the last chunk in a read of its own."""
    return [b"%x\r\n%s\r\n" % (len(read), read) for read in reads] + [b"0\r\n\r\n"]


def by_counting(protocol, reads, joints=()):
    """The facts of a raw body, its HTTP chunks joined into reads at `joints`, and decoded."""
    framed = chunked(reads)
    edges = [0, *joints, len(framed)]
    groups = [range(a, b) for a, b in pairwise(edges)]
    whole = [b"".join(framed[i] for i in group) for group in groups]
    decoded = [b"".join(([*reads, b""])[i] for i in group) for group in groups]
    raw = Raw(b"".join(whole), whole)
    return protocol.read(decoded, raw=raw), protocol.read(decoded)


def compact(document):
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


COUNTED = {
    "ollama generate": replace(PROTOCOLS["ollama generate"], frame=lambda d: compact(d) + b"\n"),
    "ollama chat": replace(PROTOCOLS["ollama chat"], frame=lambda d: compact(d) + b"\n"),
    "tgi": replace(PROTOCOLS["tgi"], frame=lambda d: b"data: " + compact(d) + b"\n\n"),
}
counted = pytest.mark.parametrize("protocol", COUNTED.values(), ids=COUNTED)


@counted
def test_a_raw_body_of_like_chunks_is_counted(protocol):
    facts, decoded = by_counting(protocol, protocol.reads(words=WORDS * 9), (3, 9, 20, 36))

    assert isinstance(facts.content, PerMark)
    assert facts == decoded
    assert len(facts.content) == 36


EXTRAS = [
    lambda protocol: b"",
    lambda protocol: b"",
    lambda protocol: protocol.frame(protocol.failure),
    lambda protocol: b"{oops\n\n",
    lambda protocol: b"oops\n",
    lambda protocol: b": idle\n\n",
]


@counted
@settings(max_examples=300)
@given(st.data())
def test_counting_says_what_decoding_says(protocol, data):
    reads = protocol.reads(words=data.draw(st.lists(st.text(max_size=4), max_size=8)))
    extra = data.draw(st.sampled_from(EXTRAS))(protocol)
    reads.insert(data.draw(st.integers(0, len(reads))), extra)
    if data.draw(st.booleans()):
        body = b"".join(reads)
        cuts = data.draw(st.sets(st.integers(1, len(body) - 1), max_size=4))
        reads = [body[a:b] for a, b in pairwise([0, *sorted(cuts), len(body)])]
    reads = [read for read in reads if read]
    joints = sorted(data.draw(st.sets(st.integers(1, len(reads)), max_size=4)))

    facts, decoded = by_counting(protocol, reads, joints)

    assert facts == decoded
