"""Heads, chunk sizes and the ends of bodies: what is accepted, and what is not HTTP."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.errors import BackendError
from loadgen.wire.frames import Chunks, chunks_are_whole, find_head, read_head, reads_are_chunks


def head(*lines):
    return read_head("\r\n".join([*lines, "", ""]).encode())


def test_a_head_says_status_fields_and_framing():
    read = head("HTTP/1.1 200 OK", "Content-Type: Text/Event-Stream; charset=x", "A: 1", "a: 2",
                "Transfer-Encoding: chunked")  # fmt: skip

    assert (read.status, read.chunked, read.length, read.keeps) == (200, True, None, True)
    assert read.kind == "text/event-stream"
    assert read.headers["A"] == "1, 2"


@pytest.mark.parametrize(
    ("lines", "length", "keeps"),
    [
        (["HTTP/1.1 200 OK", "Content-Length: 5"], 5, True),
        (["HTTP/1.1 200", "Content-Length: 5, 5", "Connection: Close"], 5, False),
        (["HTTP/1.0 200 OK"], None, False),
        (["HTTP/1.0 200 OK", "connection: keep-alive"], None, True),
        (["HTTP/1.1 204 No Content"], 0, True),
    ],
)
def test_how_long_a_body_is_and_whether_the_connection_stays(lines, length, keeps):
    read = head(*lines)

    assert (read.chunked, read.length, read.keeps) == (False, length, keeps)


@pytest.mark.parametrize(
    "lines",
    [
        ["SSH-2.0-OpenSSH_9.2"],
        ["HTTP/2 200 OK"],
        ["HTTP/1.1 2000 OK"],
        ["HTTP/1.1 200 OK", " folded"],
        ["HTTP/1.1 200 OK", "No Colon"],
        ["HTTP/1.1 200 OK", "Space : before"],
        ["HTTP/1.1 200 OK", "Content-Length: -5"],
        ["HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6"],
        ["HTTP/1.1 200 OK", "Content-Length: 5", "Transfer-Encoding: chunked"],
        ["HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked"],
    ],
)
def test_what_is_no_head(lines):
    with pytest.raises(BackendError, match="not HTTP"):
        head(*lines)


def test_a_head_is_sought_only_so_far():
    assert find_head(b"HTTP/1.1 200 OK\r\nA: b\r\n") is None
    assert find_head(b"HTTP/1.1 200 OK\r\n\r\nbody") == 19
    with pytest.raises(BackendError, match="over 65536 bytes"):
        find_head(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 2**16)
    with pytest.raises(BackendError, match="does not begin with HTTP/1"):
        find_head(b"<ht")


def framed(parts, end=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


@given(st.lists(st.binary(min_size=1, max_size=900), max_size=6), st.data())
@example([b"\r\n", b"\r", b"\n", b"0\r\n\r\n"], None)
def test_chunks_decode_to_what_was_framed_however_they_are_cut(parts, data):
    body = framed(parts)
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=9)) if data else [1, 3, 9]
    edges = [0, *sorted(places), len(body)]
    decoder = Chunks()

    decoded = [decoder.feed(body[a:b]) for a, b in pairwise(edges)]

    assert b"".join(decoded) == b"".join(parts)
    assert decoder.done
    assert not decoder.surplus
    assert chunks_are_whole(body)


@given(st.lists(st.binary(min_size=1, max_size=500), max_size=5), st.data())
def test_a_cut_or_longer_body_is_not_whole(parts, data):
    body = framed(parts)
    short = body[: data.draw(st.integers(0, len(body) - 1))]

    assert not chunks_are_whole(short)
    assert not chunks_are_whole(body + b"x")


def test_extensions_and_trailers_are_read_over():
    decoder = Chunks()

    body = decoder.feed(b'3;name="v"\r\nabc\r\n0\r\nDigest: x\r\nB: y\r\n\r\n')

    assert (body, decoder.done) == (b"abc", True)


def test_what_follows_the_end_is_surplus():
    decoder = Chunks()
    decoder.feed(framed([b"abc"]) + b"HTTP/1.1 200 OK")

    assert decoder.done
    assert decoder.surplus


@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\n",
        b"-1\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"1_0\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n\n",
        b"\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"1" * 5000,
    ],
)
def test_what_is_no_chunked_body(body):
    with pytest.raises(BackendError, match="not HTTP"):
        Chunks().feed(body)


def test_reads_that_are_chunks_each_are_known_for_whole():
    reads = [b"3\r\nabc\r\n", b"3\r\nd\r\n\r\n", b"3\r\nefg\r\n0\r\n\r\n"]
    assert chunks_are_whole(b"".join(reads))  # from here on their size is known
    assert reads_are_chunks(reads)
    for wrong in (
        [b"3\r\nab", b"c\r\n0\r\n\r\n"],
        [b"3\r\nabc\r\n", b"0\r\n\r\n"],
        [b"3\r\nabcd\r\n0\r\n\r\n"],
        [b"4\r\nabc\r\n0\r\n\r\n"],
        [b"3\r\nabc\r\n\r\n0\r\n\r\n"],
        [b"", *reads],
        [reads[0], b"0\r\n\r\n", reads[2]],
    ):
        assert not reads_are_chunks(wrong)
