"""What every server backend owes, whatever its protocol: one suite over all dialects.

The streams are built by hand as the servers' documentation and source give them; what real
servers sent is in test_transcripts.py.
"""

import json
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.records import OUTCOMES, ServerFacts
from loadgen.backends.base import Message, Request, WireResponse
from tests.contract.protocols import PROMPT_TOKENS, PROTOCOLS, WHOLE, WORDS, each


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
def test_a_chat_goes_out_as_its_messages_and_a_completion_as_their_text(protocol):
    said = (Message("system", "Be brief."), Message("user", "Why?"))
    request = Request("Be brief. Why?", 5, messages=said)

    body = json.loads(protocol.dialect.render(request, "m").body)

    if "messages" in body:
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
        ]
    assert ("messages" in body) != ("Be brief. Why?" in (body.get("prompt"), body.get("inputs")))


@each
def test_the_text_is_what_was_answered_as_far_as_it_came(protocol):
    reads = protocol.reads()
    response = WireResponse(200, {"Content-Type": protocol.kind}, reads)

    assert protocol.dialect.text(response) == "".join(WORDS)
    cut = replace(response, reads=reads[:2], broken="bad_stream")
    assert protocol.dialect.text(cut) == "".join(WORDS[:2])
    assert protocol.dialect.text(replace(response, dropped={1: 3})) is None
    assert protocol.dialect.text(WireResponse(404, {}, [protocol.refusal])) is None
    assert protocol.dialect.text(WireResponse(broken="unreachable")) is None


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
    reads = protocol.reads()
    body, ends = b"".join(reads), list(accumulate(map(len, reads)))
    whole = protocol.read([body])

    for place in range(len(body) + 1):
        halves = protocol.read([body[:place], body[place:]])
        assert replace(halves, content=()) == replace(whole, content=())
        assert list(halves.content) == [int(end > place) for end in ends[: len(WORDS)]]


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


@each
def test_an_answer_in_one_piece_is_asked_for_and_only_its_end_is_known(protocol):
    wire = protocol.of(WHOLE).render(Request("why", 5), "m")
    body = json.loads(wire.body)
    facts = protocol.read_whole([protocol.in_one_piece(tokens=5)])

    assert body.get("stream", wire.path != "/generate") is False
    assert "stream_options" not in body
    assert (facts.outcome, facts.error, facts.finish_reason) == ("ok", None, "length")
    assert (facts.whole, list(facts.content), facts.answer) == (True, [], None)
    assert (facts.prompt_tokens, facts.prompt_source) == (PROMPT_TOKENS, "server")
    assert (facts.output_tokens, facts.output_source) == (5, "server")


@each
def test_an_answer_in_one_piece_has_the_servers_own_times(protocol):
    whole, streamed = (
        protocol.read_whole([protocol.in_one_piece()]),
        protocol.read(protocol.reads()),
    )

    in_its_head = ServerFacts(queue=pytest.approx(0.012)) if protocol.head else None
    assert whole.server == (in_its_head or streamed.server)


@each
def test_the_text_of_an_answer_in_one_piece(protocol):
    dialect, json_kind = protocol.of(WHOLE), {"content-type": "application/json"}

    body = protocol.in_one_piece()
    assert dialect.text(WireResponse(200, json_kind, [body[:9], body[9:]])) == "".join(WORDS)
    assert dialect.text(WireResponse(404, json_kind, [protocol.refusal])) is None


@each
def test_half_of_an_answer_in_one_piece_is_never_ok(protocol):
    body = protocol.in_one_piece()

    for place in range(len(body)):
        broken = protocol.read_whole([body[:place]], broken="bad_stream", detail="broken off")
        ended = protocol.read_whole([body[:place]])
        assert (broken.outcome, broken.whole) == ("bad_stream", False)
        assert ended.outcome in ("bad_stream", "truncated")


@each
def test_what_refuses_an_answer_in_one_piece(protocol):
    refused = protocol.read_whole([protocol.refusal], 404)
    failed = protocol.read_whole([json.dumps(protocol.failure).encode()])
    streamed = protocol.of(WHOLE).read(
        WireResponse(200, {"content-type": "text/event-stream"}, protocol.reads())
    )

    assert (refused.outcome, refused.error) == ("rejected", "HTTP 404: no such model")
    assert (failed.outcome, failed.whole) == ("server_error", False)
    assert (streamed.outcome, streamed.whole) == ("bad_stream", False)


@each
@settings(max_examples=40)
@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_in_one_piece_comes_to_a_known_outcome(protocol, body):
    assert protocol.read_whole([body]).outcome in OUTCOMES


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
