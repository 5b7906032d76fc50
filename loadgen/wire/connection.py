"""One connection: an own protocol on a transport that is already there.

Between the socket and the answer stands one timestamp and two appends; see `answer.py`.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import Callable
from time import monotonic

from contract.errors import BackendError
from loadgen.wire.answer import Answer
from loadgen.wire.stamps import Clocks, KernelReader, StampStats

_BROKE_OFF = "the server broke the connection off"
_NO_ANSWER = "the server closed the connection without an answer"


class Connection(asyncio.Protocol):
    """Carries one exchange at a time: `start`, await `done`, then `answer` and `broken`.

    `release` closes what the transport came from; it is called once, when the connection ends.
    """

    __slots__ = ("_fd", "_kernel", "_left", "_read", "_release", "_shift", "_stamp",
                 "_stats", "_transport", "answer", "broken", "done", "heard", "open",
                 "seconds", "uses")  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        release: Callable[[], None],
        stats: StampStats,
        seconds: float = 0.0,
    ) -> None:
        self.open = True
        self.uses = 0  # exchanges begun
        self.seconds = seconds  # that connecting took
        self.heard = False  # a byte of the answer came
        self.answer = Answer()
        self.broken: tuple[str, str] | None = None
        self.done: asyncio.Future[None] | None = None
        self._transport = transport
        self._release = release
        self._stats = stats
        self._kernel: KernelReader | None = None
        secure = transport.get_extra_info("sslcontext") is not None
        self._fd = -1 if secure else transport.get_extra_info("socket").fileno()
        self._stamp: Callable[[float], None]
        self._read: Callable[[bytes], None]
        self._rest()
        transport.set_protocol(self)

    @property
    def stamped_by_kernel(self) -> bool:
        """Whether its reads carry the kernel's stamps."""
        return self._kernel is not None

    def use_kernel_stamps(self, clocks: Clocks) -> None:
        """From now on; plain connections only. OSError when the system does not let us."""
        if self._fd >= 0 and self._kernel is None:
            self._kernel = KernelReader(
                self._transport, self._take_stamped, self.connection_lost, clocks, self._stats
            )

    def start(
        self, payload: bytes, marks: array[float], shift: float, answer: Answer
    ) -> tuple[float, asyncio.Future[None]]:
        """Send; returns the instant (monotonic) at which the bytes went out, and the end.

        Reads append their instant plus `shift` to `marks`.
        """
        self.uses += 1
        self.heard = False
        self.broken = None
        self.answer = answer
        self._read = answer.reads.append
        self._stamp = marks.append
        self._shift = shift
        self._left = 0
        done = self.done = asyncio.get_running_loop().create_future()
        sent = monotonic()
        self._write(payload)
        return sent, done

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        self._stamp(now + self._shift)
        self._read(data)
        self._left -= len(data)
        if self._left <= 0 or len(data) < 4 or data.endswith(b"\r\n\r\n"):
            self._look()

    def _take_stamped(self, data: bytes, instant: float) -> None:
        self._stamp(instant + self._shift)
        self._read(data)
        self._left -= len(data)
        if self._left <= 0 or len(data) < 4 or data.endswith(b"\r\n\r\n"):
            self._look()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.open:
            return
        self._shut()
        if self.done is None:
            return
        try:
            if exc is not None:
                quiet = not any(self.answer.reads)
                raise BackendError("bad_stream", _NO_ANSWER if quiet else _BROKE_OFF)
            self.answer.end()
        except BackendError as error:
            self.broken = error.outcome, error.detail
        self._over()

    def stop(self, outcome: str, reason: str) -> None:
        """End the exchange in progress, and the connection with it."""
        self.broken = outcome, reason
        self.abort()
        self._over()

    def abort(self) -> None:
        """Drop the connection."""
        if self.open:
            self._shut()

    def _look(self) -> None:
        if self.done is None:
            self.abort()  # it talks without being asked
            return
        self.heard = True
        answer = self.answer
        try:
            self._left = answer.look()
        except BackendError as error:
            self.stop(error.outcome, error.detail)
            return
        if answer.done:
            if not answer.reusable:
                self.abort()
            self._over()

    def _over(self) -> None:
        done, self.done = self.done, None
        if self._kernel is None:
            self._stats.user += len(self.answer.reads)
        self._rest()
        if done is not None and not done.done():
            done.set_result(None)

    def _rest(self) -> None:
        """Between exchanges: whatever comes is looked at."""
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
        if self._kernel is not None:
            self._kernel.close()
        self._transport.abort()
        self._release()


def _forget(_what: object) -> None:
    return None
