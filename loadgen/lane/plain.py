"""Reading what comes, with the kernel's stamps, where nothing is compiled: every answer goes the
general way.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from contract.jsonl import line_of
from loadgen.figures.stamp_stats import StampStats

TIMESPEC = struct.Struct("@ll")
ANCILLARY = socket.CMSG_SPACE(TIMESPEC.size)
READ_SIZE = 16 * 1024  # bytes; small, so that packets that queued up keep their own stamps

Bounds = Sequence[Sequence[float]]
SecondsOf = Callable[[Any], Sequence[float | None]]


class Reader(Protocol):
    """Who is told of what comes."""

    def look_at(self, instant: float) -> None:
        """Something came at that instant that may end an answer, or that nobody asked for."""
        ...

    def connection_lost(self, exc: Exception | None) -> None: ...


class Clocks(Protocol):
    """How the kernel's stamps become monotonic instants: less `base`, plus `offset`; seconds."""

    base: int
    offset: float


class Channel:
    """Where the reads of one exchange go, of one connection."""

    __slots__ = ("_marks", "_reads", "connection", "left", "shift")

    def __init__(self, connection: Reader) -> None:
        self.connection = connection
        self.left = 0
        self.shift = 0.0
        self._reads: list[bytes] | None = None
        self._marks: array[float]

    def expect(self, reads: list[bytes], marks: array[float], shift: float) -> None:
        """From now on they go there, each with its instant plus `shift`. `left` says for how many
        bytes nobody needs to look at them, unless one is short or ends with an empty line."""
        self._reads = reads
        self._marks = marks
        self.shift = shift
        self.left = 0

    def rest(self) -> None:
        """Nothing is expected: whatever comes is looked at."""
        self._reads = None
        self.left = 0

    def hand_over(self) -> None:
        """Nobody flies here."""

    def took(self, data: bytes, instant: float) -> bool:
        """Keep what was read at an instant (monotonic); whether it has to be looked at."""
        reads = self._reads
        if reads is None:
            return True
        self._marks.append(instant + self.shift)
        reads.append(data)
        self.left -= len(data)
        return self.left <= 0 or data.endswith(b"\r\n\r\n") or len(data) < 4


class Inlet:
    """Reads the sockets of one pool."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clocks: Clocks, stats: StampStats) -> None:
        self._loop = loop
        self._clocks = clocks
        self._stats = stats

    def watch(self, own: socket.socket, channel: Channel) -> None:
        """Read a socket from now on, once whenever something is there; OSError."""
        self._loop.add_reader(own.fileno(), self._receive, own, channel)

    def forget(self, own: socket.socket) -> None:
        """Read it no more."""
        self._loop.remove_reader(own.fileno())

    def close(self) -> None:
        """Let go of the event loop."""

    def _receive(self, own: socket.socket, channel: Channel) -> None:
        try:
            data, ancillary, _, _ = own.recvmsg(READ_SIZE, ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            channel.connection.connection_lost(error)
            return
        if not data:
            channel.connection.connection_lost(None)
            return
        try:
            seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2])
        except (IndexError, struct.error):
            self._stats.missing += 1
            instant = monotonic()
        else:
            clocks = self._clocks
            instant = seconds - clocks.base + nanoseconds * 1e-9 + clocks.offset
        if channel.took(data, instant):
            channel.connection.look_at(instant)


def lines(records: Iterable[Any]) -> bytes:
    """Records as lines of JSON."""
    return b"".join(map(line_of, records))


@dataclass(slots=True)
class Sum:
    """What records of one kind come to: how many, their tokens, and of each histogram the values
    per bucket and their total."""

    buckets: list[list[int]]
    totals: list[float]
    count: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Fold:
    """Sums of many records, with histograms of these bounds over what `seconds_of` one gives."""

    def __init__(self, bounds: Bounds, seconds_of: SecondsOf) -> None:
        self._bounds, self._seconds_of = bounds, seconds_of

    def sums(self, records: Iterable[Any]) -> dict[tuple[int, str, str], Sum]:
        """By agents, phase and outcome. Values count where the phase is measured and the outcome
        ok."""
        found: dict[tuple[int, str, str], Sum] = {}
        for record in records:
            key = record.agents, record.phase, record.outcome
            if (into := found.get(key)) is None:
                empty = [[0] * (len(each) + 1) for each in self._bounds]
                into = found[key] = Sum(empty, [0.0] * len(self._bounds))
            into.count += 1
            into.prompt_tokens += record.prompt_tokens or 0
            into.output_tokens += record.output_tokens or 0
            if key[1:] == ("measured", "ok"):
                for place, seconds in enumerate(self._seconds_of(record)):
                    if seconds is not None:
                        into.buckets[place][bisect_left(self._bounds[place], seconds)] += 1
                        into.totals[place] += seconds
        return found
