"""Counting a raw body without decoding it says what decoding says."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.backends.base import Raw
from loadgen.stopwatch import PerMark
from tests.contract.protocols import PROTOCOLS, WORDS


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


@counted
def test_an_empty_chunk_is_found_wherever_http_cuts_it(protocol):
    body = b"".join(protocol.reads(words=("a", "b", "c", "")))
    for place in range(1, len(body)):
        facts, decoded = by_counting(protocol, [body[:place], body[place:]])
        assert facts == decoded


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
