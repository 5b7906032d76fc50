"""However a body was cut into reads, the facts are the same; whatever it is, they come."""

import json
from dataclasses import replace
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from contract.records import OUTCOMES
from loadgen.backends.base import WireResponse
from loadgen.backends.openai import OpenAiDialect
from loadgen.sse import events

HEADERS = {"Content-Type": "text/event-stream"}
DIALECT = OpenAiDialect()


def chunk(text, finish=None):
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return json.dumps({"choices": [choice]}, ensure_ascii=False)


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})


@st.composite
def bodies(draw):
    """A stream with the freedoms that servers take, ending or not ending well."""
    texts = draw(st.lists(st.text(max_size=6), max_size=8))
    datas = [chunk(text) for text in texts]
    datas += draw(st.lists(st.sampled_from([chunk("", "stop"), USAGE, "[DONE]", "{"]), max_size=4))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    space = draw(st.sampled_from(["", " "]))
    idle = draw(st.sampled_from(["", ": idle" + end + end]))
    body = "".join(f"{idle}data:{space}{data}{end}{end}" for data in datas)
    return body.encode()[: None if draw(st.booleans()) else -len(end)]


@st.composite
def cuts(draw, body):
    """The body as reads, some of them possibly empty."""
    places = draw(st.lists(st.integers(0, len(body)), max_size=12))
    edges = [0, *sorted(places), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


def facts(reads):
    return DIALECT.read(WireResponse(200, HEADERS, reads))


@given(st.data())
def test_facts_do_not_depend_on_the_reads(data):
    body = data.draw(bodies())
    whole = facts([body])

    for reads in (data.draw(cuts(body)), [body[i : i + 1] for i in range(len(body))]):
        apart = facts(reads)
        assert replace(apart, content=None) == replace(whole, content=None)
        assert len(apart.content) == len(whole.content)


@given(st.data())
def test_the_read_of_an_event_is_the_one_that_brought_its_last_byte(data):
    body = data.draw(bodies())
    reads = data.draw(cuts(body))
    single = [event.read for event in events([body[i : i + 1] for i in range(len(body))])]
    arrived = list(accumulate(map(len, reads)))

    expected = [next(i for i, n in enumerate(arrived) if n > at) for at in single]

    assert [event.read for event in events(reads)] == expected


KEYS = [
    "choices",
    "delta",
    "text",
    "content",
    "usage",
    "error",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "message",
    "prompt_tokens_details",
    "metrics",
    "timings",
    "queue_time_ms",
    "time_to_first_token_ms",
    "cached_tokens",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4), st.sampled_from([200, 404, 503]))
def test_any_document_comes_to_a_known_outcome(documents, status):
    body = b"".join(b"data: " + json.dumps(d).encode() + b"\n\n" for d in documents)

    read = DIALECT.read(WireResponse(status, HEADERS, [body]))

    assert read.outcome in OUTCOMES
    assert read.output_tokens is None or read.output_tokens >= 0


@given(st.binary(max_size=200))
def test_any_bytes_come_to_a_failure(body):
    assert facts([body]).outcome in ("truncated", "bad_stream", "server_error")


@given(
    st.lists(st.text(st.sampled_from('ab "\\\n\té\u2028😀,:{}'), max_size=5), max_size=12),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.booleans(),
)
def test_content_is_exactly_the_chunks_with_text(texts, plain, separators, chat):
    documents = [
        {"choices": [{"delta": {"content": text}} if chat else {"text": text}]} for text in texts
    ]
    reads = [
        f"data: {json.dumps(d, ensure_ascii=plain, separators=separators)}\n\n".encode()
        for d in documents
    ]

    assert facts(reads).content == [i for i, text in enumerate(texts) if text]
