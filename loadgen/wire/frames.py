"""HTTP/1.1 framing: heads, chunk sizes, the end of a chunked body. Strict and pure.

RFC 9112; every violation is BackendError(`bad_stream`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from contract.errors import BackendError

HEAD_BUDGET = 64 * 1024  # bytes of one head
SIZE_LINE = 4096  # bytes of one chunk-size line, extensions included, and of one trailer
_END = b"\r\n0\r\n\r\n"  # of a last chunk, and the one of no size after it
_SMALL_CHUNK = 400  # bytes below which splitting beats hopping

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n\x00]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\x00]*)?")


@dataclass(frozen=True, slots=True)
class Head:
    """A status line and its fields, and how the body after it is framed.

    The body is `chunked`, or `length` bytes long, or neither and ends with the connection.
    """

    status: int
    headers: Mapping[str, str]
    chunked: bool
    length: int | None
    keeps: bool  # the connection may carry another exchange
    kind: str | None  # media type


def not_http(reason: str) -> BackendError:
    """The error for an answer that breaks the rules of HTTP."""
    return BackendError("bad_stream", f"not HTTP: {reason}")


def find_head(data: bytes, at: int = 0) -> int | None:
    """Offset after the head that begins at `at`, None while it is incomplete."""
    if not b"HTTP/1.".startswith(data[at : at + 7]):
        raise not_http("the answer does not begin with HTTP/1")
    stop = data.find(b"\r\n\r\n", at, at + HEAD_BUDGET)
    if stop < 0 and len(data) - at >= HEAD_BUDGET:
        raise not_http(f"the head is over {HEAD_BUDGET} bytes")
    return None if stop < 0 else stop + 4


# A server repeats its heads to the byte, at least within one second of its Date.
_HEADS: dict[bytes, Head] = {}


def read_head(head: bytes) -> Head:
    """A complete head, its blank line included."""
    known = _HEADS.get(head)
    if known is None:
        known = _parse(head)
        if len(_HEADS) >= 64:
            _HEADS.clear()
        _HEADS[head] = known
    return known


def _parse(head: bytes) -> Head:
    first, *rest = head[:-4].split(b"\r\n")
    if (line := _STATUS_LINE.fullmatch(first)) is None:
        raise not_http("a malformed status line")
    status = int(line[2])
    headers = _fields(rest)
    folded = {name.lower(): value for name, value in headers.items()}
    coding, length = folded.get("transfer-encoding"), folded.get("content-length")
    if coding is not None and (coding.lower() != "chunked" or length is not None):
        raise not_http("a body framed in more than one way")
    bodiless = status < 200 or status in (204, 304)
    options = {option.strip().lower() for option in folded.get("connection", "").split(",")}
    return Head(
        status=status,
        headers=headers,
        chunked=coding is not None and not bodiless,
        length=0 if bodiless else _length(length),
        keeps="close" not in options and (line[1] == b"1" or "keep-alive" in options),
        kind=folded["content-type"].partition(";")[0].strip().lower()
        if "content-type" in folded
        else None,
    )


def _fields(lines: list[bytes]) -> dict[str, str]:
    """Fields by name as sent; one that comes again is joined to the first by a comma."""
    fields: dict[str, str] = {}
    names: dict[str, str] = {}
    for line in lines:
        if (field := _FIELD.fullmatch(line)) is None:
            raise not_http("a malformed header")
        name, value = field[1].decode("ascii"), field[2].decode("latin-1")
        known = names.setdefault(name.lower(), name)
        fields[known] = f"{fields[known]}, {value}" if known in fields else value
    return fields


def _length(text: str | None) -> int | None:
    if text is None:
        return None
    given = {part.strip() for part in text.split(",")}
    length = given.pop()
    if given or not (length.isascii() and length.isdigit()) or len(length) > 15:
        raise not_http("a malformed Content-Length")
    return int(length)


class _Sizes(dict[bytes, int]):
    """Chunk sizes by their line, so that a size seen before costs one look-up."""

    def __missing__(self, line: bytes) -> int:
        if (size := _SIZE.fullmatch(line)) is None:
            raise not_http("a malformed chunk size")
        if len(self) >= 2**14:
            self.clear()
        self[line] = value = int(size[1], 16)
        return value


class _SplitSizes(dict[bytes, int]):
    """The same for bodies split at CR: lines and chunks keep the LF before them."""

    def __missing__(self, line: bytes) -> int:
        if line[:1] != b"\n":
            raise not_http("a malformed chunk size")
        if len(self) >= 2**14:
            self.clear()
        self[line] = value = SIZES[line[1:]] + 1
        return value


SIZES = _Sizes()
_SPLIT_SIZES = _SplitSizes()


def reads_are_chunks(reads: Sequence[bytes]) -> bool:
    """Whether each read is one chunk of a known size, and the last one ends the body besides.

    So most servers' writes arrive. False says nothing.
    """
    last = len(reads) - 1
    for number, read in enumerate(reads):
        at = read.find(b"\r\n")
        end = at + 2 + (SIZES.get(read[:at]) or -4)  # unknown, or the size that ends a body
        rest = _END if number == last else b"\r\n"
        if at < 0 or len(read) - end != len(rest) or not read.endswith(rest):
            return False
    return True


def chunks_are_whole(body: bytes) -> bool:
    """Whether `body` is exactly one chunked body, from the first size to its last CRLF."""
    if _second_size(body) < _SMALL_CHUNK and _whole_when_split(body):
        return True
    return _chunks_end(body) == len(body)


def _second_size(body: bytes) -> int:
    """Bytes of the second chunk, as a first one may hold a role only; 0 when there is none."""
    at = size = 0
    for _ in range(2):
        stop = body.find(b"\r\n", at, at + SIZE_LINE)
        if stop < 0:
            return 0
        size = SIZES[body[at:stop]]
        at = stop + 4 + size
    return size


def _whole_when_split(body: bytes) -> bool:
    """True for a whole body of chunks without CR and without trailers; else nothing is said."""
    parts = body.split(b"\r")
    if parts[-3:] != [b"\n0", b"\n", b"\n"]:
        return False
    parts[0] = b"\n" + parts[0]
    chunks = parts[1:-3:2]
    try:
        sizes = list(map(_SPLIT_SIZES.__getitem__, parts[0:-3:2]))
    except BackendError:
        return False  # perhaps only a CR inside a chunk
    starts = set(map(itemgetter(slice(0, 1)), chunks))
    return sizes == list(map(len, chunks)) and 1 not in sizes and starts == {b"\n"}


def _chunks_end(body: bytes) -> int | None:
    """Offset after the chunked body that `body` begins with, None when it is incomplete."""
    at = 0
    while True:
        stop = body.find(b"\r\n", at, at + SIZE_LINE)
        if stop < 0:
            return None
        size = SIZES[body[at:stop]]
        if size == 0:
            return stop + 4 if body[stop + 2 : stop + 4] == b"\r\n" else None
        at = stop + 4 + size
        if body[at - 2 : at] != b"\r\n":
            return None


class Chunks:
    """Decodes a chunked body as it arrives: exact for every cut, trailers read and dropped."""

    __slots__ = ("_left", "_rest", "_trailing", "done", "surplus")

    def __init__(self) -> None:
        self.done = False
        self.surplus = False  # something followed the end of the body
        self._rest = b""  # the beginning of a line
        self._left = 0  # bytes of the chunk and its CRLF still to come
        self._trailing = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`."""
        data = self._rest + data
        self._rest = b""
        parts: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                at = self._take(data, at, parts)
                continue
            stop = data.find(b"\r\n", at)
            if stop < 0:
                self._rest = data[at:]
                break
            self._line(data[at:stop])
            at = stop + 2
        if len(self._rest) > SIZE_LINE:
            raise not_http(f"a chunk size is over {SIZE_LINE} bytes")
        self.surplus = self.done and at < len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, data: bytes, at: int, parts: list[bytes]) -> int:
        if self._left > 2:
            part = data[at : at + self._left - 2]
            parts.append(part)
        else:
            part = data[at : at + self._left]
            if not b"\r\n"[-self._left :].startswith(part):
                raise not_http("a chunk longer than its size")
        self._left -= len(part)
        return at + len(part)

    def _line(self, line: bytes) -> None:
        if self._trailing:
            if line and _FIELD.fullmatch(line) is None:
                raise not_http("a malformed trailer")
            self.done = not line
        elif (size := SIZES[line]) == 0:
            self._trailing = True
        else:
            self._left = size + 2
