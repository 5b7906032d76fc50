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
import sys
import time
from collections.abc import Callable

from loadgen.lane.plain import ANCILLARY, TIMESPEC

_SO_TIMESTAMPNS = 35  # the same number on every Linux architecture but parisc and sparc
OFFSET_AGE = 1.0  # seconds after which the offset between the clocks is sampled again
SPARE_DESCRIPTORS = 64
STAMPED_SHARE = 3 / 8  # of the free descriptors: so many connections may be stamped, at two each
TRIES = 200


class Clocks:
    """From the wall clock to the monotonic one: of a stamp subtract `base`, add `offset` seconds.

    `base` is whole seconds, so that what is left keeps its nanoseconds in a float.
    """

    def __init__(self) -> None:
        self.base = int(time.time())
        self.offset = 0.0
        self.refresh()

    def refresh(self) -> float:
        """Sample the offset anew: of a few samples the one taken fastest.

        Returns by how many seconds stamps may have been wrong since the last time: how far the
        clocks have moved apart, and what sampling leaves open.
        """
        best, last = None, self.offset
        for _ in range(7):
            before = time.monotonic_ns()
            wall = time.time_ns()
            after = time.monotonic_ns()
            if best is None or after - before < best:
                best = after - before
                self.offset = ((before + after) // 2 - wall + self.base * 1_000_000_000) / 1e9
        return abs(self.offset - last) + (best or 0) / 1e9


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
            ask_for_stamps(self._socket)
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
            _, ancillary, _, _ = self._socket.recvmsg(1, ANCILLARY)
        except OSError:
            return False
        stamp = stamp_of(ancillary)
        return stamp is not None and stamp <= sent


def ask_for_stamps(own: socket.socket) -> None:
    """Have what comes in on a socket stamped; OSError."""
    own.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def stamp_of(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The kernel's stamp among a message's ancillary data, nanoseconds of wall clock."""
    for _, kind, stamp in ancillary:
        if kind == _SO_TIMESTAMPNS and len(stamp) == TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack(stamp)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def descriptors() -> int:
    """How many more descriptors this process may open, a few left to others."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 2**20
    return max(0, limit - taken())


def taken() -> int:
    """The descriptors that are open, and those left to others."""
    return len(os.listdir("/dev/fd")) + SPARE_DESCRIPTORS


def carried(free: int, pools: int) -> int:
    """How many connections so many free descriptors carry at least, shared by so many pools that
    stamp: the first of each take two, until STAMPED_SHARE."""
    return int(free * max(1 / 2, 1 - pools * STAMPED_SHARE))
