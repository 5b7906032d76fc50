"""One stage driven by shards: the conductor merges what they write, and moves the window by it.

So the window is the same as that of one process: it opens and closes by all completions in the
order they ended, and every record is given its phase where it is merged. Shards hear of both
ends of it within a beat; what they ask for in the meantime ends in the drain.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from contract.errors import DataError
from contract.shards import requests_of
from loadgen.figures.stamp_stats import StampStats
from loadgen.shards.crew import Crew, error_of
from loadgen.shards.link import Message
from loadgen.window import Windowed

LEAD = 0.05  # seconds between saying when all begin, and that instant
PATIENCE = 10.0  # seconds after a drain for which a shard may be silent


@dataclass(slots=True)
class ShardedStage(Windowed):
    """A stage whose requests the shards of a crew send. `lag_seen` hears of every reading of how
    late one of their event loops was, in seconds."""

    crew: Crew
    lag_seen: Callable[[float], None]
    _working: set[int] = field(default_factory=set)
    _in_flight: dict[int, int] = field(default_factory=dict)
    _lags: list[tuple[float, float]] = field(default_factory=list)
    _ends: list[float] = field(default_factory=list)
    _written: dict[int, int] = field(default_factory=dict)
    _told: tuple[float | None, float | None] = (None, None)
    _aborted: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: asyncio.Task[None] = field(init=False)

    @property
    def in_flight(self) -> int:
        """Requests due and not ended, when they were last heard of."""
        return sum(self._in_flight.values())

    async def warm(self) -> None:
        """Have every shard ready to begin."""
        crew = self.crew
        crew.merge.upto = [math.inf] * crew.shards
        self._working = set(crew.living)
        for shard in self._working:
            crew.merge.upto[shard] = -math.inf
        self._waiting = asyncio.create_task(self._wait_no_longer())
        crew.say({"stage": self.plan.number, "answered": crew.answered})
        cold = set(self._working)
        while cold & self._working:
            shard, message = await crew.heard()
            cold.discard(shard)
            self._hear(shard, message)

    async def drive(self) -> None:
        """Let all begin at one instant, and see them through their drain."""
        due = self.clock() + LEAD
        self.crew.say({"go": due})
        self.begin(due)
        self._tell()
        try:
            await self._collect()
        except asyncio.CancelledError:
            self.abort()
            await self._collect()
            raise
        finally:
            self._waiting.cancel()
            self.drained = self.clock()
        self._end()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close the window now; the stage stays incomplete."""
        Windowed.stop(self)
        self._tell()

    def abort(self) -> None:
        """Close the window and cancel what is in flight."""
        self.stop()
        self._aborted.set()
        self.crew.say({"abort": True})

    async def _collect(self) -> None:
        while self._working:
            self._hear(*await self.crew.heard())

    def _hear(self, shard: int, message: Message) -> None:
        match message:
            case {"beat": [at, in_flight, lags]}:
                self.crew.merge.upto[shard] = at
                self._in_flight[shard] = in_flight
                self._lags += zip(lags[::2], lags[1::2], strict=True)
            case {"done": [ended, written], **more}:
                self._over(shard)
                if "stamps" in more:
                    self.stamped(StampStats.from_json(more["stamps"]))
                self._ends.append(ended)
                self._written[shard] = written
            case {"error": [code, line]}:
                self._over(shard)
                self.fail(error_of(code, line))
            case {"lost": _}:
                self._over(shard)
                self.stop()
        self._settle()
        self._tell()

    def _over(self, shard: int) -> None:
        """Nothing more comes from it; all it wrote is there."""
        self._working.discard(shard)
        self._in_flight.pop(shard, None)
        self.crew.merge.upto[shard] = math.inf

    def _settle(self) -> None:
        """Take what ended before anything can still come of."""
        if self._failure is not None:
            return
        merge = self.crew.merge
        try:
            for record in merge.settled():
                record.phase = self.phase(record.ended)
                self.take(record)
        except BaseException as error:  # noqa: BLE001  # raised again by `drive`
            self.fail(error)
        known, self._lags = self._lags, []
        for at, seconds in known:
            if at < merge.limit:
                self.lagged(at, seconds)
                self.lag_seen(seconds)
            else:
                self._lags.append((at, seconds))

    def _tell(self) -> None:
        """Let the shards know what is known of the window."""
        start, end = (None if math.isinf(each) else each for each in (self.start, self.end))
        if (start, end) != self._told:
            self._told = start, end
            self.crew.say({"window": [start, end]})

    async def _wait_no_longer(self) -> None:
        """End the shards that are silent when they should long have drained."""
        await self.closing.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._aborted.wait(), self.plan.grace)
        await asyncio.sleep(PATIENCE)
        self.crew.kill(self._working)

    def _end(self) -> None:
        """The schedule may have ended by itself. DataError when lines are not there."""
        self.close(max(self._ends, default=self.clock()))
        self.crew.answered = self.crew.answered or self.counts.ok > 0
        for shard, written in self._written.items():
            taken = self.crew.merge.taken[shard]
            if self._failure is None and taken != written:
                raise DataError(
                    f"{requests_of(self.crew.path, shard)}: {taken} records found, {written} "
                    "were written"
                )
