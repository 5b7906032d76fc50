"""One connection: an own protocol on a transport that is already there.

Between the socket and the answer stands one timestamp and two appends; see `answer.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections.abc import Callable, Sequence
from time import monotonic

from contract.errors import BackendError
from contract.records import StampSource
from loadgen.figures.stamp_stats import StampStats
from loadgen.lane import Channel, Inlet
from loadgen.wire.answer import Answer
from loadgen.wire.stamps import ask_for_stamps

_BROKE_OFF = "the server broke the connection off"
_NO_ANSWER = "the server closed the connection without an answer"

Over = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """Carries one exchange at a time: `start`, and `over` is called at its end, which `answer`
    and `broken` tell.

    `release` closes what the transport came from; it is called once, when the connection ends.
    """

    __slots__ = ("_over", "_release", "_stats", "_transport", "answer", "broken", "channel",
                 "descriptor", "heard", "open", "seconds", "used")  # fmt: skip

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
        # To be written to past the transport; -1 where that must not be.
        self.descriptor = -1 if secure(transport) else transport.get_extra_info("socket").fileno()
        self.channel = Channel(self)
        transport.set_protocol(self)

    def start(
        self, payload: bytes, answer: Answer, marks: array[float], shift: float, over: Over
    ) -> float:
        """Send; returns the instant (monotonic) at which the bytes went out.

        Reads append their instant plus `shift` to `marks`.
        """
        self.carry(answer, marks, shift, over)
        sent = monotonic()
        self._write(payload)
        return sent

    def carry(
        self,
        answer: Answer,
        marks: array[float],
        shift: float,
        over: Over,
        came: Sequence[bytes] = (),
    ) -> None:
        """What comes from now on is the answer's, after the reads that came already, whose
        instants are in `marks`; its request is sent elsewhere."""
        self.heard = False
        self.broken = None
        self.answer = answer
        self.channel.expect(answer.reads, marks, shift)
        self._over = over
        for read in came:
            answer.reads.append(read)
            self._look()

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        self._stats.user += 1
        if self.channel.took(data, now):
            self._look()

    def look_at(self, _instant: float) -> None:
        """Something came then that may end an answer, or that nobody asked for."""
        self._look()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.open:
            return
        self.channel.hand_over()
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
            self.channel.left = answer.look()
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
        self.channel.rest()
        self._over = None
        if over is not None:
            over(self)

    def _count(self, reads: int) -> None:
        """The reads of an answer, once it is there: ours were counted as they came."""

    def _write(self, payload: bytes) -> None:
        """At once, past the loop's queue of writes, where the socket takes it."""
        written = 0
        if self.descriptor >= 0:
            try:
                written = os.write(self.descriptor, payload)
            except OSError:
                written = 0  # the transport finds out what is wrong
        if written < len(payload):
            self.write_rest(payload, written)

    def write_rest(self, payload: bytes, written: int) -> None:
        """What the socket did not take at once, by and by."""
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

    __slots__ = ("_inlet", "_socket")

    stamper: StampSource = "kernel"

    def __init__(
        self,
        transport: asyncio.Transport,
        release: Callable[[], None],
        stats: StampStats,
        seconds: float,
        inlet: Inlet,
    ) -> None:
        own = transport.get_extra_info("socket")
        self._inlet = inlet
        self._socket = socket.socket(own.family, own.type, own.proto, os.dup(own.fileno()))
        try:
            ask_for_stamps(self._socket)
            super().__init__(transport, release, stats, seconds)
            inlet.watch(self._socket, self.channel)
        except OSError:
            self._socket.close()
            raise
        transport.pause_reading()

    def look_at(self, instant: float) -> None:
        stats = self._stats
        stats.skip -= 1
        if stats.skip <= 0 and self._over is not None:
            stats.sample(monotonic() - instant)
        self._look()

    def _count(self, reads: int) -> None:
        self._stats.kernel += reads

    def _shut(self) -> None:
        self._inlet.forget(self._socket)
        self._socket.close()
        super()._shut()


def secure(transport: asyncio.Transport) -> bool:
    """Whether what comes through it is encrypted, so that the kernel's stamps say nothing."""
    return transport.get_extra_info("sslcontext") is not None
