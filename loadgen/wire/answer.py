"""One answer as its reads come in: where its head ends, when it is complete, what is kept.

Pure. While it can, it only keeps the reads: a chunked body is neither decoded nor counted until
its last bytes are there, and then checked whole. What does not fit that (bodies over their
budget, trailers, CRLF streams, cuts in odd places) is decoded as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from contract.errors import BackendError
from loadgen.backends.base import Raw, WireResponse
from loadgen.wire.frames import (
    Chunks,
    Head,
    chunks_are_whole,
    find_head,
    not_http,
    read_head,
    reads_are_chunks,
)
from loadgen.wire.keep import Keep

KEPT_BUDGET = 128 * 1024  # bytes kept of one event stream
BODY_BUDGET = 64 * 2**20  # bytes of one body, kept or not
MANY_READS = 2000  # from which tiny reads are decoded as they come
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_STREAMS = ("text/event-stream", "application/x-ndjson", None)


class Answer:
    """The reads of one exchange. `look` after appending some; `end` when no more can come."""

    __slots__ = ("_body_budget", "_chunks", "_fed", "_keep", "_kept", "_raw", "_size", "done",
                 "head", "reads", "reusable")  # fmt: skip

    def __init__(self, kept_budget: int = KEPT_BUDGET, body_budget: int = BODY_BUDGET) -> None:
        self.reads: list[bytes] = []
        self.head: Head | None = None
        self.done = False
        self.reusable = False  # the connection may carry another exchange
        self._kept = min(kept_budget, body_budget)
        self._body_budget = body_budget
        self._chunks: Chunks | None = None
        self._keep: Keep | None = None
        self._raw: Raw | None = None
        self._fed = 0  # reads decoded and measured
        self._size = 0  # body bytes in them

    def look(self) -> int:
        """See whether the answer is complete (`done`).

        Returns for how many further bytes nobody needs to look again, unless a read is shorter
        than four bytes or ends with an empty line. Raises BackendError.
        """
        if self.head is None and not self._take_head():
            return 0
        assert self.head is not None
        if self.head.chunked and self._chunks is None and self._waits():
            return 0 if self.done else self._kept - sum(map(len, self.reads))
        if not self.done:
            self._take_reads()
        return self._room()

    def end(self) -> None:
        """The connection was closed: complete now, or BackendError."""
        if not any(self.reads) and self.head is None:
            raise BackendError("bad_stream", "the server closed the connection without an answer")
        if self.head is not None:
            self._take_reads()
            self.done = self.done or (self.head.length is None and not self.head.chunked)
        if not self.done:
            raise BackendError("bad_stream", "the server broke the connection off")

    def response(self) -> WireResponse:
        """What came. An answer that is not complete is decoded as far as it goes."""
        if self.head is None:
            return WireResponse()
        response = WireResponse(self.head.status, self.head.headers, self.reads)
        if self._raw is not None:
            response.raw, response.reads = self._raw, Decoded(self.reads)
        else:
            try:
                self._take_reads()
            except BackendError as error:
                response.broken, response.detail = error.outcome, error.detail
            if self._keep is not None:
                response.dropped = self._keep.dropped
                response.answered = self._keep.answered
        return response

    def _take_head(self) -> bool:
        reads = self.reads
        data = reads[0] if len(reads) == 1 else b"".join(reads)
        at = 0
        while self.head is None:
            stop = find_head(data, at)
            if stop is None:
                return False
            head = read_head(data[at:stop])
            at = stop
            if head.status == 101:
                raise not_http("a switch of protocols nobody asked for")
            if head.status >= 200:
                self.head = head
        for number in range(len(reads) - 1):
            reads[number] = b""
        reads[-1] = data[at:]
        return True

    def _waits(self) -> bool:
        """Whether a chunked body can go on being kept as it is."""
        end = self.reads[-1]
        if len(end) < len(_LAST_CHUNK):
            end = b"".join(self.reads[-len(_LAST_CHUNK) :])
        if end.endswith(_LAST_CHUNK) or end == _LAST_CHUNK[2:]:
            whole = self.reads[0] if len(self.reads) == 1 else b"".join(self.reads)
            framed = reads_are_chunks(self.reads) or chunks_are_whole(whole)
            if framed and len(whole) <= self._body_budget:
                self._raw = Raw(whole, self.reads)
                self.done = True
                self.reusable = self.head is not None and self.head.keeps
                return True
        elif not end.endswith(b"\r\n\r\n"):
            return len(self.reads) < MANY_READS and sum(map(len, self.reads)) < self._kept
        return False

    def _take_reads(self) -> None:
        """Decode and measure the reads that were not yet."""
        assert self.head is not None
        if self.head.chunked and self._chunks is None:
            self._chunks = Chunks()
        while self._fed < len(self.reads):
            if self._chunks is not None:
                self.reads[self._fed] = self._chunks.feed(self.reads[self._fed])
            self._size += len(self.reads[self._fed])
            self._fed += 1
        if self._size > self._body_budget:
            raise BackendError("bad_stream", f"the body is over {self._body_budget} bytes")
        surplus = self._ends()
        if self.done:
            self.reusable = self.head.keeps and not surplus
        elif self._size > self._kept and self.head.kind in _STREAMS:
            if self._keep is None:
                self._keep = Keep(self._kept, by_line=self.head.kind == _STREAMS[1])
            self._keep.thin(self.reads)

    def _ends(self) -> bool:
        """Set `done`; whether something followed the body."""
        assert self.head is not None
        if self._chunks is not None:
            self.done = self._chunks.done
            return self._chunks.surplus
        if self.head.length is None or self._size < self.head.length:
            return False
        self.done = True
        surplus = self._size - self.head.length
        if surplus:
            self.reads[-1] = self.reads[-1][:-surplus]
            self._size = self.head.length
        return bool(surplus)

    def _room(self) -> int:
        assert self.head is not None
        if self._chunks is not None or self._size > self._kept:
            return 0
        room = self._kept - self._size
        return room if self.head.length is None else min(room, self.head.length - self._size)


class Decoded(Sequence[bytes]):
    """The body bytes of each read of a whole chunked body, decoded when first asked for."""

    def __init__(self, raw: Sequence[bytes]) -> None:
        self._raw = raw
        self._body: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if self._body is None:
            chunks = Chunks()
            self._body = [chunks.feed(read) for read in self._raw]
        return self._body[index]
