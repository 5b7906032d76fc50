"""One connection: an own protocol on a transport that is already there.

Between the socket and the answer stands one timestamp and two appends; see `answer.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from array import array
from collections.abc import Callable
from time import monotonic

from contract.errors import BackendError
from contract.records import StampSource
from loadgen.stamp_stats import StampStats
from loadgen.wire.answer import Answer
from loadgen.wire.stamps import (
    ANCILLARY,
    READ_SIZE,
    TIMESPEC,
    Clocks,
    ask_for_stamps,
)

_BROKE_OFF = "the server broke the connection off"
_NO_ANSWER = "the server closed the connection without an answer"

Over = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """Carries one exchange at a time: `start`, and `over` is called at its end, which `answer`
    and `broken` tell.

    `release` closes what the transport came from; it is called once, when the connection ends.
    """

    __slots__ = ("_fd", "_left", "_marks", "_over", "_read", "_release", "_shift", "_stamp",
                 "_stats", "_transport", "answer", "broken", "heard", "open", "seconds",
                 "used")  # fmt: skip

    stamper: StampSource = "user"

    def __init__(
        self,
        transport: asyncio.Transport,
        release: Callable[[], None],
        stats: StampStats,
        seconds: float = 0.0,
    ) -> None:
        self.open = True
        self.seconds = seconds  # that connecting took
        self.heard = False  # a byte of the answer came
        self.used = False  # it has carried an exchange to its end
        self.answer = Answer()
        self.broken: tuple[str, str] | None = None
        self._over: Over | None = None
        self._transport = transport
        self._release = release
        self._stats = stats
        self._fd = -1 if secure(transport) else transport.get_extra_info("socket").fileno()
        self._marks: array[float]
        self._stamp: Callable[[float], None]
        self._read: Callable[[bytes], None]
        self._rest()
        transport.set_protocol(self)

    def start(
        self, payload: bytes, answer: Answer, marks: array[float], shift: float, over: Over
    ) -> float:
        """Send; returns the instant (monotonic) at which the bytes went out.

        Reads append their instant plus `shift` to `marks`.
        """
        self.heard = False
        self.broken = None
        self.answer = answer
        self._read = answer.reads.append
        self._marks = marks
        self._stamp = marks.append
        self._shift = shift
        self._left = 0
        self._over = over
        sent = monotonic()
        self._write(payload)
        return sent

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        self._stats.user += 1
        self._stamp(now + self._shift)
        self._read(data)
        self._left -= len(data)
        if self._left <= 0 or data.endswith(b"\r\n\r\n") or len(data) < 4:
            self._look()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.open:
            return
        self._shut()
        if self._over is None:
            return
        try:
            if exc is not None:
                quiet = not any(self.answer.reads)
                raise BackendError("bad_stream", _NO_ANSWER if quiet else _BROKE_OFF)
            self.answer.end()
        except BackendError as error:
            self.broken = error.outcome, error.detail
        self._end()

    def stop(self, outcome: str, reason: str) -> None:
        """End the exchange in progress, and the connection with it."""
        self.broken = outcome, reason
        self.abort()
        self._end()

    def abort(self) -> None:
        """Drop the connection; an exchange in progress does not hear of it."""
        if self.open:
            self._shut()

    def _look(self) -> None:
        if self._over is None:
            self.abort()  # it talks without being asked
            return
        if not self.heard:
            self.heard = True
            self._stats.firsts += 1
        answer = self.answer
        try:
            self._left = answer.look()
        except BackendError as error:
            self.stop(error.outcome, error.detail)
            return
        if answer.done:
            if not answer.reusable:
                self.abort()
            self._end()

    def _end(self) -> None:
        over = self._over
        self._count(len(self.answer.reads))
        self._rest()
        if over is not None:
            over(self)

    def _count(self, reads: int) -> None:
        """The reads of an answer, once it is there: ours were counted as they came."""

    def _rest(self) -> None:
        """Between exchanges: whatever comes is looked at."""
        self._over = None
        self._stamp = self._read = _forget
        self._shift = 0.0
        self._left = 0

    def _write(self, payload: bytes) -> None:
        """At once, past the loop's queue of writes, where the socket takes it."""
        written = 0
        if self._fd >= 0:
            try:
                written = os.write(self._fd, payload)
            except OSError:
                written = 0  # the transport finds out what is wrong
        if written < len(payload):
            self._transport.write(payload[written:] if written else payload)

    def _shut(self) -> None:
        self.open = False
        self._transport.abort()
        self._release()


class StampedConnection(Connection):
    """A plain connection whose reads carry the kernel's stamps.

    Its socket is read past its transport, which is paused; the socket is duplicated, as a loop
    does not let its transports' descriptors be watched. OSError when the system does not let us.
    """

    __slots__ = ("_clocks", "_loop", "_receive", "_socket")

    stamper: StampSource = "kernel"

    def __init__(
        self,
        transport: asyncio.Transport,
        release: Callable[[], None],
        stats: StampStats,
        seconds: float,
        clocks: Clocks,
    ) -> None:
        own = transport.get_extra_info("socket")
        self._socket = socket.socket(own.family, own.type, own.proto, os.dup(own.fileno()))
        try:
            ask_for_stamps(self._socket)
        except OSError:
            self._socket.close()
            raise
        super().__init__(transport, release, stats, seconds)
        self._receive = self._socket.recvmsg
        self._clocks = clocks
        self._loop = asyncio.get_running_loop()
        transport.pause_reading()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._receive(READ_SIZE, ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.connection_lost(error)
            return
        if not data:
            self.connection_lost(None)
            return
        try:
            seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2])
        except (IndexError, struct.error):
            self._stats.missing += 1
            instant = monotonic()
        else:
            clocks = self._clocks
            instant = seconds - clocks.base + nanoseconds * 1e-9 + clocks.offset
        self._stamp(instant + self._shift)
        self._read(data)
        self._left -= len(data)
        if self._left <= 0 or data.endswith(b"\r\n\r\n") or len(data) < 4:
            stats = self._stats
            stats.skip -= 1
            if stats.skip <= 0 and self._over is not None:
                stats.sample(monotonic() - instant)
            self._look()

    def _count(self, reads: int) -> None:
        self._stats.kernel += reads

    def _shut(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        super()._shut()


def secure(transport: asyncio.Transport) -> bool:
    """Whether what comes through it is encrypted, so that the kernel's stamps say nothing."""
    return transport.get_extra_info("sslcontext") is not None


def _forget(_what: object) -> None:
    return None
