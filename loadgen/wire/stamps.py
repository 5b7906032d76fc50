"""When bytes arrived: the kernel's own receive stamps where there are any, and the clocks.

A kernel stamp (SO_TIMESTAMPNS) is taken when a packet comes in, however late this process gets
round to reading it. It is wall-clock time, brought to the monotonic clock by an offset that is
sampled again and again. Bytes of several packets read at once carry the stamp of the last.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

_SO_TIMESTAMPNS = 35  # the same number on every Linux architecture but parisc and sparc
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)
READ_SIZE = 16 * 1024  # bytes; small, so that packets that queued up keep their own stamps
OFFSET_AGE = 1.0  # seconds after which the offset between the clocks is sampled again
DELAYS_KEPT = 65_536
_DELAY_EVERY = 8  # one read in so many has its delay noted
SPARE_DESCRIPTORS = 64
TRIES = 200


@dataclass(slots=True)
class StampStats:
    """What the stamps of a stage were: counts of reads, and seconds from a kernel stamp until
    this process read the bytes (of a sample)."""

    kernel: int = 0
    user: int = 0
    missing: int = 0  # kernel stamps that did not come with their bytes
    merged: int = 0  # reads that filled the buffer: more may have waited behind one stamp
    delays: array[float] = field(default_factory=lambda: array("d"))

    @property
    def kernel_share(self) -> float | None:
        """Share of the reads that the kernel stamped."""
        reads = self.kernel + self.user
        return self.kernel / reads if reads else None


class Clocks:
    """The offset from wall clock to monotonic clock, in nanoseconds."""

    def __init__(self) -> None:
        self.offset = _offset()
        self._until = time.monotonic() + OFFSET_AGE

    def refresh(self, now: float) -> None:
        """Sample it again when it is old."""
        if now >= self._until:
            self.offset = _offset()
            self._until = now + OFFSET_AGE


def _offset() -> int:
    """Monotonic minus wall clock: of a few samples the one taken fastest."""
    best, offset = None, 0
    for _ in range(7):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best:
            best, offset = after - before, (before + after) // 2 - wall
    return offset


def shift(clock: Callable[[], float]) -> float:
    """Seconds from the monotonic clock to `clock`, which must run as fast."""
    best, found = None, 0.0
    for _ in range(7):
        before = time.monotonic()
        there = clock()
        after = time.monotonic()
        if best is None or after - before < best:
            best, found = after - before, there - (before + after) / 2
    return found


class Stamping:
    """Has the kernel stamp what comes in, as long as it is open.

    Linux begins to some time after the first socket asked for it, and until then gives the time
    of reading as that of arrival, without a word. So this socket asks first, and finds out with
    a packet to itself whether it has begun. OSError where there is nothing of the kind.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("no kernel stamps on this system")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.bind(("127.0.0.1", 0))
            self._socket.connect(self._socket.getsockname())
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise

    async def begun(self) -> bool:
        """Wait until it has; False when it does not within TRIES milliseconds."""
        for _ in range(TRIES):
            if self._stamps():
                return True
            await asyncio.sleep(0.001)
        return False

    def close(self) -> None:
        """Let it end."""
        self._socket.close()

    def _stamps(self) -> bool:
        """Whether a packet is stamped when it comes, not when it is read."""
        try:
            self._socket.send(b"?")
            sent = time.time_ns()
            _, ancillary, _, _ = self._socket.recvmsg(1, _ANCILLARY)
        except OSError:
            return False
        stamp = stamp_of(ancillary)
        return stamp is not None and stamp <= sent


def stamp_of(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The kernel's stamp among a message's ancillary data, nanoseconds of wall clock."""
    for _, kind, stamp in ancillary:
        if kind == _SO_TIMESTAMPNS and len(stamp) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(stamp)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def descriptors() -> int:
    """How many more descriptors this process may open, a few left to others."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 2**20
    return max(0, limit - len(os.listdir("/dev/fd")) - SPARE_DESCRIPTORS)


class KernelReader:
    """Reads a connection's socket past its transport, with the kernel's stamps.

    The transport is paused and the socket duplicated, as a loop does not let its transports'
    descriptors be watched. `took(data, instant)` gets every read, `lost(error or None)` the end.
    """

    __slots__ = ("_clocks", "_loop", "_lost", "_socket", "_stats", "_took")

    def __init__(
        self,
        transport: asyncio.Transport,
        took: Callable[[bytes, float], None],
        lost: Callable[[Exception | None], None],
        clocks: Clocks,
        stats: StampStats,
    ) -> None:
        own = transport.get_extra_info("socket")
        self._socket = socket.socket(own.family, own.type, own.proto, os.dup(own.fileno()))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._took, self._lost = took, lost
        self._clocks, self._stats = clocks, stats
        self._loop = asyncio.get_running_loop()
        transport.pause_reading()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Stop reading; the transport is closed by its owner."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(READ_SIZE, _ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        if not data:
            self._lost(None)
            return
        self._took(data, self._instant(ancillary, len(data)))

    def _instant(self, ancillary: list[tuple[int, int, bytes]], size: int) -> float:
        stats = self._stats
        if size == READ_SIZE:
            stats.merged += 1
        stamp = stamp_of(ancillary)
        if stamp is None:
            stats.missing += 1
            stats.user += 1
            return time.monotonic()
        instant = (stamp + self._clocks.offset) / 1e9
        stats.kernel += 1
        if stats.kernel % _DELAY_EVERY == 0:
            self._note(instant)
        return instant

    def _note(self, instant: float) -> None:
        now = time.monotonic()
        self._clocks.refresh(now)
        if len(self._stats.delays) < DELAYS_KEPT:
            self._stats.delays.append(max(0.0, now - instant))
