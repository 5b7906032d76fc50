"""However an answer is cut into reads, the same comes out, stamped by the completing read."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import BackendError
from loadgen.backends.openai import OpenAiDialect
from loadgen.sse import events
from loadgen.stopwatch import Ids, Stopwatch, record
from loadgen.wire.answer import Answer

DIALECT = OpenAiDialect()
USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


def chunk(text, finish=None):
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def sse(end="\n", space=" ", idle="", texts=("à", " b😀", ' "c\\', "d"), tokens=4):
    """A complete stream of four tokens."""
    finish = [chunk(text) for text in texts[:-1]] + [chunk(texts[-1], "length")]
    usage = {"choices": [], "usage": {**USAGE, "completion_tokens": tokens}}
    datas = [json.dumps(d, ensure_ascii=False) for d in [*finish, usage]] + ["[DONE]"]
    return [f"{idle}data:{space}{data}{end}{end}".encode() for data in datas]


def http(kind="text/event-stream", *fields):
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(parts, end=b"0\r\n\r\n"):
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return http("text/event-stream", "Transfer-Encoding: chunked") + framed + end


def pieces(body, size):
    return [body[at : at + size] for at in range(0, len(body), size)]


def by_length(parts):
    body = b"".join(parts)
    return http("text/event-stream", f"Content-Length: {len(body)}") + body


ANSWERS = {
    "chunked": chunked(sse()),
    "chunks across events": chunked(pieces(b"".join(sse()), 50)),
    "one chunk": chunked([b"".join(sse())]),
    "trailers": chunked(sse(), b"0\r\nDigest: x\r\n\r\n"),
    "content length": by_length(sse()),
    "until closed": http() + b"".join(sse()),
    "after 1xx": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n"
    + chunked(sse()),
    "CRLF": chunked(sse(end="\r\n")),
    "no space": chunked(sse(space="")),
    "comments": chunked(sse(idle=": idle\n\n")),
    "merged": chunked(sse(tokens=7)),
    "empty": chunked(sse(texts=("", "b", "", "d"))),
}


def come(data, edges, **budgets):
    """The answer read by read, as a connection takes it; its instants are the bytes so far."""
    answer = Answer(**budgets)
    watch = Stopwatch(lambda: 0.0, 0.0)
    left = 0
    for start, stop in pairwise(edges):
        read = data[start:stop]
        watch.mark_at(float(stop))
        answer.reads.append(read)
        left -= len(read)
        if left <= 0 or len(read) < 4 or read.endswith(b"\r\n\r\n"):
            left = answer.look()
        if answer.done:
            break
    if not answer.done:
        answer.end()
    return answer, watch


def facts_of(answer):
    return DIALECT.read(answer.response())


def whole(data):
    return facts_of(come(data, [0, len(data)])[0])


def instants(facts, watch):
    return [watch.marks[mark] for mark in facts.content]


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
def test_cut_at_every_byte_the_record_is_the_same_but_for_instants(data):
    expected = whole(data)
    apart, watch = come(data, range(len(data) + 1))
    alone = instants(facts_of(apart), watch)

    assert expected.outcome == "ok"
    assert (expected.prompt_tokens, expected.finish_reason) == (3, "length")
    for place in range(1, len(data)):
        answer, watch = come(data, [0, place, len(data)])
        facts = facts_of(answer)
        done = record(watch, facts, Ids("r", 1, 1, 0, 0), "measured", 0.0)
        assert facts.content is not None
        assert (facts.outcome, facts.output_tokens, facts.counted) == (
            expected.outcome, expected.output_tokens, expected.counted)  # fmt: skip
        assert done.chunks == len(expected.content) == len(alone)
        assert instants(facts, watch) == [place if at <= place else len(data) for at in alone]


def test_byte_by_byte_an_instant_is_that_of_the_byte_that_completes_the_event():
    data = by_length(sse())
    answer, watch = come(data, range(len(data) + 1))

    body = b"".join(sse())
    first = len(data) - len(body)
    ends = [first + len(b"".join(sse()[: n + 1])) for n in range(4)]
    assert instants(facts_of(answer), watch) == ends


@settings(max_examples=60)
@given(st.sampled_from(sorted(ANSWERS)), st.data())
def test_any_cut_gives_the_same_facts(name, data):
    body = ANSWERS[name]
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    answer, _ = come(body, [0, *sorted(places), len(body)])
    facts, expected = facts_of(answer), whole(body)

    assert (facts.outcome, facts.output_tokens) == (expected.outcome, expected.output_tokens)
    assert len(facts.content) == len(expected.content)


def test_the_count_is_believed_only_when_the_server_counts_the_same():
    assert whole(ANSWERS["chunked"]).counted is None
    assert len(whole(ANSWERS["chunked"]).content) == 4
    many = sse(texts=["x", *("" if n % 5 == 0 else f" w{n}" for n in range(1, 40)), "z"], tokens=34)
    facts = whole(chunked(many))
    assert (len(facts.content), facts.counted, facts.output_tokens) == (34, 41, 34)


def test_a_role_before_the_text_is_no_token():
    def delta(**delta):
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    documents = [delta(role="assistant", content=""), *(delta(content=f"w{n}") for n in range(30))]
    documents += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    documents += [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 30}}]
    parts = [b"data: " + json.dumps(d).encode() + b"\n\n" for d in documents]

    facts = whole(chunked([*parts, b"data: [DONE]\n\n"]))

    assert (facts.outcome, len(facts.content), facts.counted) == ("ok", 30, None)


@pytest.mark.parametrize("name", ["chunked", "CRLF", "comments", "until closed", "content length"])
def test_over_its_budget_only_head_and_last_events_are_kept_and_all_are_counted(name):
    texts = [f" word {n}" for n in range(3000)]
    end, idle = ("\r\n", "") if name == "CRLF" else ("\n", ": idle\n\n" * (name == "comments"))
    parts = sse(end=end, idle=idle, texts=texts, tokens=3000)
    if name == "content length":
        data = by_length(parts)
    else:
        data = http() + b"".join(parts) if name == "until closed" else chunked(parts)
    edges = [*range(0, len(data), 700), len(data)]
    full, watch = come(data, edges, kept_budget=10**9)
    thin, _ = come(data, edges, kept_budget=8000)
    expected, response = facts_of(full), thin.response()
    facts = DIALECT.read(response)

    assert sum(map(len, response.reads)) < 16_000
    assert (facts.outcome, facts.output_tokens) == ("ok", 3000)
    assert len(facts.content) + sum(response.dropped.values()) == len(expected.content) == 3000
    counts = [0] * len(watch.marks)
    for mark in facts.content:
        counts[mark] += 1
    for mark, count in response.dropped.items():
        counts[mark] += count
    assert [m for m, n in enumerate(counts) for _ in range(n)] == list(expected.content)


def test_lines_of_objects_are_thinned_at_their_ends():
    lines = [b'{"response":"word %d","done":false}\n' % n for n in range(2000)]
    body = b"".join(lines)
    data = http("application/x-ndjson", f"Content-Length: {len(body)}") + body
    answer, _ = come(data, [*range(0, len(data), 333), len(data)], kept_budget=4000)
    response = answer.response()
    kept = b"".join(response.reads).splitlines()

    assert len(kept) < 300
    assert len(kept) + sum(response.dropped.values()) == 2000
    assert all(json.loads(line)["done"] is False for line in kept)
    assert (kept[0] + b"\n", kept[-1] + b"\n") == (lines[0], lines[-1])


def test_a_line_without_end_is_given_up_in_bounded_memory():
    answer = Answer()
    answer.reads.append(http() + b"data: ")
    answer.look()

    def more():
        while len(answer.reads) < 10_000:
            answer.reads.append(b"x" * 65536)
            answer.look()

    with pytest.raises(BackendError, match="a line of the stream is over 16777216 bytes"):
        more()
    assert len(answer.reads) < 600


def test_a_body_over_the_budget_of_all_bodies_is_given_up():
    answer = Answer(body_budget=1000)
    answer.reads.append(http("application/json") + b"x" * 1001)

    with pytest.raises(BackendError, match="the body is over 1000 bytes"):
        answer.look()


@pytest.mark.parametrize("name", sorted(set(ANSWERS) - {"until closed"}))
def test_an_answer_that_breaks_off_keeps_what_came(name):
    data = ANSWERS[name]
    every = [event.data for event in events(come(data, [0, len(data)])[0].response().reads)]
    for place in range(1, len(data)):
        answer = Answer()
        answer.reads.append(data[:place])
        answer.look()
        assert not answer.done
        with pytest.raises(BackendError, match="broke the connection off"):
            answer.end()
        body = b"".join(answer.response().reads)
        came = [event.data for event in events([body])]
        assert came[:-1] == every[: len(came)][:-1]


def test_nothing_at_all_is_no_answer():
    with pytest.raises(BackendError, match="without an answer"):
        Answer().end()
