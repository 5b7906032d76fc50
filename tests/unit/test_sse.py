"""Server-sent events: what is an event, and which read completed it."""

import pytest

from contract.errors import BackendError
from loadgen.sse import Event, events, lines


def test_an_event_is_complete_at_its_blank_line():
    reads = [b"data: a", b"\n", b"\n", b"data: b\n\ndata: c\n", b"\n"]

    assert list(events(reads)) == [Event(b"a", 2), Event(b"b", 3), Event(b"c", 4)]


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"data: x\n\n", [b"x"]),
        (b"data:x\n\n", [b"x"]),
        (b"data:  x\n\n", [b" x"]),
        (b"data: x\r\n\r\n", [b"x"]),
        (b": idle\n\ndata: x\n\n", [b"x"]),
        (b": idle\ndata: x\n: more\n\n", [b"x"]),
        (b"data: x\ndata: y\n\n", [b"x\ny"]),
        (b"data\n\n", [b""]),
        (b"id: 7\nretry: 10\n\n", []),
        (b"data: x\n", [b"x"]),
        (b"data: x", [b"x"]),
        (b"\n\n\ndata: x\n\n\n\n", [b"x"]),
        (b"", []),
    ],
)
def test_data_of_events(body, data):
    assert [event.data for event in events([body])] == data


def test_an_event_keeps_its_name_for_itself():
    body = b"event: error\ndata: x\n\ndata: y\n\n"

    assert [(e.name, e.data) for e in events([body])] == [("error", b"x"), ("", b"y")]


def test_a_character_cut_in_two_is_whole_again():
    body = "data: é\n\n".encode()

    assert [e.data.decode() for e in events([body[:7], body[7:]])] == ["é"]


def test_an_unfinished_last_event_belongs_to_the_read_of_its_last_byte():
    assert list(events([b"data: x\n\nda", b"ta: y", b""])) == [Event(b"x", 0), Event(b"y", 1)]


@pytest.mark.parametrize("body", [b"data: " + b"x" * 40 + b"\n\n", b"data: xxxxxxxxx\n" * 5])
def test_a_line_or_event_over_its_budget_is_refused(body):
    with pytest.raises(BackendError, match="over 32 bytes") as caught:
        list(events([body], budget=32))

    assert caught.value.outcome == "bad_stream"


def test_lines_serve_newline_delimited_json_too():
    assert list(lines([b'{"a":1}\n{"b"', b":2}\r\n", b"{}"])) == [
        (b'{"a":1}', 0),
        (b'{"b":2}', 1),
        (b"{}", 2),
    ]
