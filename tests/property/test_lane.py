"""What the compiled lane takes for plain, the general way reads the same; its parts are alike."""

import json
from array import array
from itertools import accumulate, pairwise

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from contract.errors import BackendError
from contract.records import OUTCOMES, PHASES, RequestRecord
from loadgen.backends.openai import OpenAiDialect
from loadgen.lane import COMPILED, plain
from loadgen.observe import SECONDS_OF
from loadgen.wire.answer import Answer

pytestmark = pytest.mark.skipif(not COMPILED, reason="the lane was not compiled here")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

texts = st.one_of(
    st.sampled_from(["", "a", " b", "é😀", '"', "\\", '\\"', "\n", "\x00", "\ud800", "x" * 300]),
    st.text(max_size=5),
)
nothing = st.sampled_from([None, "", [], {}])
odd = st.sampled_from([None, True, 0, -1.5e3, "x", [], [{}], {}, {"a": [1, {"b": None}]}])


@st.composite
def choices(draw):
    """One choice of a chunk, mostly as servers write it."""
    key = draw(st.sampled_from(["text", "content", "both", "none"]))
    choice = {
        "index": 0,
        "finish_reason": draw(st.sampled_from([None, None, "stop", "length", "abort", ""])),
    }
    if key in ("text", "both"):
        choice["text"] = draw(texts)
    if key in ("content", "both"):
        choice["delta"] = {"role": "assistant", "content": draw(texts)}
        if draw(st.integers(0, 5)) == 0:
            name = st.sampled_from(["reasoning_content", "tool_calls", "refusal", "other"])
            choice["delta"][draw(name)] = draw(nothing | odd)
    if draw(st.integers(0, 4)) == 0:
        choice["logprobs"] = draw(odd)
    return choice


@st.composite
def chunks(draw):
    """One event of a stream."""
    document = {"id": draw(st.sampled_from(["c-1", "é", 'q"'])), "object": "chunk"}
    document["choices"] = draw(
        st.lists(choices(), max_size=2 if draw(st.integers(0, 9)) == 0 else 1)
    )
    if draw(st.integers(0, 5)) == 0:
        name = st.sampled_from(["error", "metrics", "timings", "usage", "extra"])
        document[draw(name)] = draw(nothing | odd)
    dumps = {"separators": draw(st.sampled_from([(",", ":"), (", ", ": ")]))}
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), **dumps)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def streams(draw):
    """The body of a stream, before its chunks are framed."""
    documents = draw(st.lists(chunks(), max_size=6))
    if documents and draw(st.booleans()):
        repeated = [documents[-1]] * draw(st.integers(1, 12))
        documents += [d.replace(b'"a"', b'"%d"' % n) for n, d in enumerate(repeated)]
    if draw(st.integers(0, 3)):
        tokens = draw(st.integers(0, 12)) if draw(st.booleans()) else _spoken(documents)
        usage = {"prompt_tokens": draw(st.integers(0, 9)), "completion_tokens": tokens}
        finish = {"index": 0, "text": "", "finish_reason": "stop"}
        more = draw(st.sampled_from([{}, {"prompt_tokens_details": None}, {"total_tokens": 3}]))
        documents.append(json.dumps({"choices": [finish], "usage": usage | more}).encode())
    if draw(st.booleans()):
        documents.append(b"[DONE]")
    space, end = draw(st.sampled_from([(b" ", b"\n\n"), (b"", b"\n\n"), (b" ", b"\r\n\r\n")]))
    body = b"".join(b"data:" + space + document + end for document in documents)
    if body and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    return body


@st.composite
def plain_streams(draw):
    """A stream as servers write it, or with one byte changed."""
    words = draw(st.lists(texts.filter(lambda text: "\ud800" not in text), max_size=9))
    named = draw(st.sampled_from([lambda w: {"text": w}, lambda w: {"delta": {"content": w}}]))
    more = {"prompt_tokens_details": None}
    usage = {"prompt_tokens": 8, "completion_tokens": sum(map(bool, words)), **more}
    documents = [
        *({"id": "c-1", "choices": [{**named(w), "finish_reason": None}]} for w in words),
        {"id": "c-1", "choices": [{"index": 0, **named(""), "finish_reason": "stop"}]},
        {"id": "c-1", "choices": [], "usage": usage},
    ]
    if words and draw(st.booleans()):  # the end within the last word's event
        documents[-3]["choices"][0]["finish_reason"] = "length"
        del documents[-2]
    body = b"".join(b"data: %b\n\n" % json.dumps(d, ensure_ascii=False).encode() for d in documents)
    body += b"data: [DONE]\n\n" * draw(st.integers(0, 2))
    if draw(st.integers(0, 2)) == 0:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(min_size=1, max_size=1)) + body[at + 1 :]
    return body


def _spoken(documents):
    """How many of them hold a text, as far as is easily told."""
    return sum(b'"text":""' not in d and b'"content":""' not in d for d in documents)


def framed(body, sizes):
    """In HTTP chunks of these sizes, over and over."""
    parts, at = [], 0
    for size in (sizes or [len(body)]) * (len(body) + 1):
        if at >= len(body):
            break
        parts.append(b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]))
        at += size
    return b"".join([*parts, b"0\r\n\r\n"])


def read_generally(reads):
    """The facts of an answer, None when it is not complete or not HTTP."""
    answer = Answer()
    for read in reads:
        answer.reads.append(read)
        try:
            answer.look()
        except BackendError:
            return None
        if answer.done:
            break
    return OpenAiDialect("vllm").read(answer.response()) if answer.done else None


sizes = st.lists(st.integers(1, 200), max_size=3)
cuts = st.lists(st.integers(1, 400), max_size=3)


def alike(body, sizes, cuts):
    """What is plain is read as the general way reads it."""
    from loadgen.lane.core import plain_facts

    wire = framed(body, sizes)
    places = [0, *(at for at in accumulate(cuts) if at < len(wire)), len(wire)]
    reads = [wire[a:b] for a, b in pairwise(places)]
    found = plain_facts(wire, places[1:])
    event("plain" if found else "not plain")
    if found is None:
        return
    counts, prompt, output, finish = found
    facts = read_generally([HEAD, *reads])
    assert facts is not None
    assert (facts.outcome, facts.error, facts.server, facts.answer) == ("ok", None, None, None)
    assert (facts.prompt_tokens, facts.output_tokens) == (prompt, output)
    # `counted` may differ: the lane counts no event ends, it takes every event by itself.
    assert facts.finish_reason == finish
    where = [read for read, count in enumerate([0, *counts]) for _ in range(count)]
    assert list(facts.content) == where


@settings(max_examples=1000, deadline=None)
@given(streams(), sizes, cuts)
def test_a_stream_taken_for_plain_is_read_as_the_general_way_reads_it(body, sizes, cuts):
    alike(body, sizes, cuts)


EMPTY, WORD = (
    b'data: {"id":"c-1","choices":[{"text":"%b","finish_reason":null}]}\n\n' % text
    for text in (b"", b"a")
)
END = (
    b'data: {"choices":[{"text":"","finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":1}}\n\n'
)


@settings(max_examples=1000, deadline=None)
@given(plain_streams(), sizes, cuts)
@example(EMPTY + WORD + EMPTY + END, [], [len(EMPTY), 8])  # a cut end of one, and an empty one
def test_a_plain_stream_is_read_as_the_general_way_reads_it(body, sizes, cuts):
    alike(body, sizes, cuts)


def test_a_stream_as_servers_write_it_is_plain():
    from loadgen.lane.core import plain_facts

    words = [{"index": 0, "text": f"w{n}", "finish_reason": None} for n in range(20)]
    documents = [{"choices": [word], "usage": None} for word in words]
    documents.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    usage = {"prompt_tokens": 8, "completion_tokens": 20, "prompt_tokens_details": None}
    documents.append({"choices": [], "usage": usage})
    body = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in documents)
    wire = framed(body + b"data: [DONE]\n\n", [300])
    assert plain_facts(wire, [len(wire)]) == ([20], 8, 20, "length")
    assert plain_facts(wire[:-1], [len(wire) - 1]) is None


seconds = st.floats(0, 100) | st.none()


@st.composite
def records(draw):
    """A record of any stage."""
    return RequestRecord(
        "r", draw(st.integers(1, 2)), 0, 0, draw(st.sampled_from([1, 4])),
        draw(st.sampled_from(PHASES)), draw(st.sampled_from(OUTCOMES)), 0.0, 1.0,
        sent=draw(seconds), first_token=draw(seconds), last_token=draw(seconds),
        prompt_tokens=draw(st.integers(0, 9) | st.none()),
        output_tokens=draw(st.integers(0, 9) | st.none()),
    )  # fmt: skip


@given(st.lists(records(), max_size=30))
def test_records_are_summed_alike(many):
    from loadgen.lane.core import Fold

    bounds = [(0.1, 1.0, 10.0), (), (5.0,), (0.0, 50.0)]
    names = ("count", "prompt_tokens", "output_tokens", "buckets", "totals")
    found = [
        {
            key: [getattr(each, name) for name in names]
            for key, each in kind(bounds, SECONDS_OF).sums(many).items()
        }
        for kind in (Fold, plain.Fold)
    ]
    assert found[0] == found[1]


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=8), st.floats(0, 9), st.integers(0, 20))),
    st.floats(-5, 5),
)
def test_reads_are_kept_and_looked_at_alike(reads, shift):
    from loadgen.lane.core import Channel

    kept = []
    for kind in (Channel, plain.Channel):
        channel, into, marks, looked = kind(None), [], array("d"), []
        looked.append(channel.took(b"unasked", 1.0))
        channel.expect(into, marks, shift)
        for data, instant, left in reads:
            looked.append(channel.took(data, instant))
            channel.left = left
        channel.rest()
        looked.append(channel.took(b"unasked", 1.0))
        kept.append((into, list(marks), looked))
    assert kept[0] == kept[1]
