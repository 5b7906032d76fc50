"""Our connections to one server: kept, connected beforehand, swept for their deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from loadgen.wire.connect import Connector
from loadgen.wire.connection import Connection
from loadgen.wire.stamps import Clocks, StampStats, descriptors, supported

CONNECTING_AT_ONCE = 64
SWEEP_STEP = 0.005  # seconds between two sweeps at the least


class Pool:
    """Idle connections, the last one used first. `stamps`: "kernel" where it can be, or "user"."""

    def __init__(self, connector: Connector, stamps: str = "kernel") -> None:
        self.stats = StampStats()
        self.clocks = Clocks()
        self._connector = connector
        self._kernel = stamps == "kernel" and supported()
        self._idle: list[Connection] = []
        self._every: set[Connection] = set()
        self._free_descriptors = descriptors() if self._kernel else 0

    def take(self) -> Connection | None:
        """A connection that is there, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    def give(self, connection: Connection) -> None:
        """Keep it for a next exchange."""
        if connection.open:
            self._idle.append(connection)

    async def connect(self) -> Connection:
        """A new one; BackendError(`unreachable`)."""
        begun = monotonic()
        transport, release = await self._connector.connect()
        connection = Connection(transport, release, self.stats, monotonic() - begun)
        self._every = {known for known in self._every if known.open} if self._due() else self._every
        self._every.add(connection)
        # A stamped connection takes two descriptors: the last quarter is for connecting alone.
        if self._kernel and 2 * len(self._every) < 0.75 * self._free_descriptors:
            try:
                connection.use_kernel_stamps(self.clocks)
            except OSError:
                self._kernel = False
        return connection

    async def warm(self, count: int) -> None:
        """Have `count` connections idle; BackendError(`unreachable`) when one cannot be had."""
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def one() -> None:
            async with gate:
                self.give(await self.connect())

        self._idle = [connection for connection in self._idle if connection.open]
        async with asyncio.TaskGroup() as group:
            for _ in range(count - len(self._idle)):
                group.create_task(one())

    async def close(self) -> None:
        """Drop every connection."""
        for connection in self._every:
            connection.abort()
        self._every.clear()
        self._idle.clear()
        await self._connector.close()
        await asyncio.sleep(0)  # aborted transports end in the loop's next turn

    def _due(self) -> bool:
        """Whether the closed ones may be forgotten now: seldom, as it looks at all."""
        size = len(self._every)
        return size >= 64 and size & (size - 1) == 0


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
