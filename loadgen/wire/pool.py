"""Our connections to one server: kept, connected beforehand, swept for their deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from contract.errors import BackendError
from loadgen.figures.stamp_stats import StampStats
from loadgen.lane import Inlet
from loadgen.wire.connect import Connector
from loadgen.wire.connection import Connection, StampedConnection, secure
from loadgen.wire.stamps import OFFSET_AGE, STAMPED_SHARE, Clocks, Stamping, descriptors

CONNECTING_AT_ONCE = 64
SPARE = 4  # connections opened beside one that was missing, where they are kept
SWEEP_STEP = 0.005  # seconds between two sweeps at the least


class Pool:
    """Idle connections, the last one used first. `stamps`: "kernel" where it can be, or "user"."""

    def __init__(self, connector: Connector, stamps: str = "kernel") -> None:
        self.stats = StampStats()
        self.clocks = Clocks()
        self._inlet = Inlet(asyncio.get_running_loop(), self.clocks, self.stats)
        self._connector = connector
        self._stamping = _stamping() if stamps == "kernel" else None
        self._begun = False
        self._refreshing: asyncio.Task[None] | None = None
        self._idle: list[Connection] = []
        self._reusable: bool | None = None  # whether the server lets a connection be used again
        self._growing: asyncio.Task[None] | None = None
        self._every: set[Connection] = set()
        self._free_descriptors = descriptors()

    def stats_taken(self) -> StampStats:
        """What the reads were since the last time."""
        self._look_at_clocks()
        return self.stats.take()

    def take(self) -> Connection | None:
        """A connection that is there, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        if self._reusable and self._growing is None:
            self._growing = asyncio.create_task(self._grow())
        return None

    @property
    def stamps(self) -> bool:
        """Whether the kernel may stamp what comes."""
        return self._stamping is not None

    def put_back(self, connection: Connection) -> None:
        """Keep one that was taken and not used."""
        self._idle.append(connection)

    def give(self, connection: Connection) -> None:
        """Keep it for a next exchange, unless this server closes what was used once."""
        if connection.used:
            self._reusable = True
        connection.used = True
        if not connection.open:
            return
        if self._reusable is False:
            connection.abort()
        else:
            self._idle.append(connection)

    def closed_after_use(self) -> None:
        """A kept connection turned out closed. Where none was ever used twice, none will be."""
        if self._reusable is None:
            self._reusable = False

    async def connect(self) -> Connection:
        """A new one; BackendError(`unreachable`)."""
        begun = monotonic()
        transport, release = await self._connector.connect()
        seconds = monotonic() - begun
        self._every = {known for known in self._every if known.open} if self._due() else self._every
        connection = await self._made(transport, release, seconds)
        self._every.add(connection)
        return connection

    async def _grow(self) -> None:
        """Where one was missing the next will be soon, and should not wait for its connection."""
        with suppress(BackendError):  # whoever needs one will say so
            await self.warm(SPARE)
        self._growing = None

    async def _made(
        self, transport: asyncio.Transport, release: Callable[[], None], seconds: float
    ) -> Connection:
        """With kernel stamps where they can be had."""
        if not secure(transport) and await self._may_stamp():
            try:
                return StampedConnection(transport, release, self.stats, seconds, self._inlet)
            except OSError:
                self._end_stamping()
        return Connection(transport, release, self.stats, seconds)

    async def warm(self, count: int) -> None:
        """Have `count` connections idle; BackendError(`unreachable`) when one cannot be had."""
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def one() -> None:
            async with gate:
                self._idle.append(await self.connect())

        self._idle = [connection for connection in self._idle if connection.open]
        missing = range(count - len(self._idle))
        ended = await asyncio.gather(*(one() for _ in missing), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def close(self) -> None:
        """Drop every connection."""
        for connection in self._every:
            connection.abort()
        self._every.clear()
        self._idle.clear()
        self._inlet.close()
        self._end_stamping()
        for task in (self._refreshing, self._growing):
            if task is not None:
                task.cancel()
        await self._connector.close()
        await asyncio.sleep(0)  # aborted transports end in the loop's next turn

    async def _may_stamp(self) -> bool:
        """Whether the kernel may stamp one more connection: each takes two descriptors then,
        and the last quarter is for connecting alone."""
        if self._stamping is None or len(self._every) >= STAMPED_SHARE * self._free_descriptors:
            return False
        if not self._begun:
            self._begun = await self._stamping.begun()
            if not self._begun:
                self._end_stamping()
            elif self._refreshing is None:
                self._refreshing = asyncio.create_task(self._refresh())
        return self._begun

    async def _refresh(self) -> None:
        """Keep the offset between the clocks fresh: the wall clock may be slewed."""
        while True:
            await asyncio.sleep(OFFSET_AGE)
            self._look_at_clocks()

    def _look_at_clocks(self) -> None:
        self.stats.clock = max(self.stats.clock, self.clocks.refresh())

    def _end_stamping(self) -> None:
        if self._stamping is not None:
            self._stamping.close()
            self._stamping = None

    def _due(self) -> bool:
        """Whether the closed ones may be forgotten now: seldom, as it looks at all."""
        size = len(self._every)
        return size >= 64 and size & (size - 1) == 0


def _stamping() -> Stamping | None:
    try:
        return Stamping()
    except OSError:
        return None


class Sweep:
    """The deadlines of all exchanges in flight, under one timer of the loop."""

    def __init__(self, expire: Callable[[Connection], None]) -> None:
        self._deadlines: dict[Connection, float] = {}
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def add(self, connection: Connection, deadline: float) -> None:
        """Expire `connection` at a monotonic instant, unless it is removed before."""
        self._deadlines[connection] = deadline
        if self._timer is None or deadline < self._at:
            self._arm(deadline)

    def remove(self, connection: Connection) -> None:
        """Its exchange is over."""
        self._deadlines.pop(connection, None)

    def close(self) -> None:
        """Expire nothing any more."""
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = instant
        wait = max(instant - monotonic(), SWEEP_STEP)
        self._timer = self._loop.call_later(wait, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = monotonic()
        for connection in [c for c, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[connection]
            self._expire(connection)
        if self._deadlines:
            self._arm(min(self._deadlines.values()))
