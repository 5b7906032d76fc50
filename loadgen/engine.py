"""One stage: a load driven against a backend, and measured in its window (`loadgen.window`).

What is in flight when the window closes is the drain. How requests come about is the load's
affair (`loadgen.loops`).

A request is a `Flight`, from the instant it is due to its record, and calls back when it lands:
a task for each would cost more than the request itself.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from contract.errors import BackendError
from contract.records import StageKey
from contract.shards import Part
from loadgen.backends.base import Backend, Request, Stamped
from loadgen.pulse import Pulse
from loadgen.quiet import settle
from loadgen.stopwatch import Facts, Ids, Stopwatch, record
from loadgen.ticker import wait_until
from loadgen.window import Windowed

if TYPE_CHECKING:
    from loadgen.lane.core import Flight as Flown
    from loadgen.lane.core import Lane

# What a load does when a request of it has landed: its outcome, and the instant.
Then = Callable[[str, float], None]

MOST_WARM = 512  # connections opened before a stage's clock starts


@runtime_checkable
class Laned(Protocol):
    """A backend that has a short way for plain requests (`loadgen.lane`)."""

    def lane(self, stage: StageRun) -> Lane | None: ...


class Source(Protocol):
    """Where requests come from; the same numbers and answers give the same request.

    One that `listens` asks next what depends on what was answered: an agent of a closed loop is
    given its next request after its last one was answered, and no request is made before it is
    due.
    """

    @property
    def listens(self) -> bool: ...

    def request(self, stage: int, agent: int, seq: int) -> Request: ...

    def answered(self, ids: Ids, request: Request, facts: Facts) -> None:
        """How a request that wants its reply's text ended."""
        ...


class Load(Protocol):
    """How requests come about: `drive` sends them until the stage is over."""

    async def drive(self, stage: StageRun) -> None: ...

    @property
    def at_once(self) -> int:
        """How many requests of it begin together."""
        ...

    def dealt(self, part: Part) -> Load:
        """What one shard has of it: together they are the whole load."""
        ...


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage as it is asked for; at most one of `seconds` and `requests` is given.

    Warm-up lasts `warmup` completions and `warmup_seconds`, whichever ends later. With
    `most_errors` the stage ends early once that share of the window's requests is exceeded.
    """

    number: int
    key: StageKey
    load: Load
    warmup: int
    seconds: float | None
    requests: int | None
    timeout: float
    grace: float
    warmup_seconds: float = 0.0
    most_errors: float | None = None


class Ready(NamedTuple):
    """A request with all that could be done before it is due."""

    ids: Ids
    request: Request
    prepared: Any


class Flight:
    """One request on its way. Implements `Landing`."""

    __slots__ = ("cancel", "ids", "request", "stage", "then", "watch")

    def __init__(
        self, stage: StageRun, watch: Stopwatch, ids: Ids, request: Request, then: Then
    ) -> None:
        self.stage = stage
        self.watch = watch
        self.ids = ids
        self.request = request
        self.then = then
        self.cancel: Callable[[], object] = _nothing

    def landed(self, facts: Facts) -> None:
        """It has ended: record it, and let its load go on."""
        stage = self.stage
        stage.between()
        if self not in stage.flights:
            return  # given up before
        stage.flights.discard(self)
        self.cancel = _nothing  # which led back to here: what refers to itself needs a collection
        now = stage.clock()
        try:
            stage.ended(self.watch, facts, self.ids, now, self.request)
            self.then(facts.outcome, now)
        except BaseException as error:  # noqa: BLE001  # raised again where the stage is driven
            stage.fail(error)
        if not stage.flights:
            stage.landed_all()

    def failed(self, error: BaseException) -> None:
        """A bug ends the stage."""
        self.stage.flights.discard(self)
        self.stage.fail(error)

    def give_up(self) -> None:
        """Cancel it; it leaves its record all the same."""
        came = self.cancel()
        stage = self.stage
        stage.flights.discard(self)
        facts = came if isinstance(came, Facts) else Facts("cancelled", content=())
        stage.ended(self.watch, facts, self.ids, stage.clock(), self.request)


@dataclass(slots=True)
class StageRun(Windowed):
    """A stage whose requests this process sends, from the instant `due` on, or at once.

    `origin` is `time.monotonic()` at the clock's zero, where the clock is that one. `between` is
    called between two pieces of work that take long: a load that has something to send does it.
    """

    backend: Backend
    source: Source
    origin: float | None = None
    due: float | None = None
    flights: set[Any] = field(default_factory=set)
    between: Callable[[], None] = lambda: None
    lane: Lane | None = None  # the short way, where this stage may take it
    _stamped: Stamped | None = None
    _aborted: asyncio.Event = field(default_factory=asyncio.Event)
    _emptied: asyncio.Event = field(default_factory=asyncio.Event)

    async def warm(self) -> None:
        """Connect beforehand; if nothing answers, the requests will say so. What the first
        request alone has to build is there from now on."""
        with suppress(BackendError):
            await self.backend.warm(min(MOST_WARM, self.plan.load.at_once))
        if isinstance(self.backend, Laned):
            self.lane = self.backend.lane(self)
        if not self.source.listens:
            self.prepare(0, 0)
        settle()

    async def drive(self) -> None:
        """Run the stage to the end of its drain. Cancelling aborts what is in flight; each
        request leaves exactly one record either way."""
        if self.due is not None:
            await wait_until(self.due, self.clock, self.origin)
        if isinstance(self.backend, Stamped):
            self._stamped = self.backend
            self._stamped.stamps_taken()  # what came before is another stage's
        self.begin(self.clock() if self.due is None else self.due)
        pulse = Pulse(self._late, self.clock, self.origin)
        driving = asyncio.create_task(self.plan.load.drive(self))
        driving.add_done_callback(self._load_over)
        try:
            await self.closing.wait()
            driving.cancel()
            await self._drain()
        finally:
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
            await self._give_up()
            if self.lane is not None:
                self.lane.close()
            pulse.close()
            self.drained = self.clock()
            if self._stamped is not None:
                self.stamped(self._stamped.stamps_taken())
        if self._failure is not None:
            raise self._failure

    def ids(self, agent: int, seq: int) -> Ids:
        """The name of one request of this stage."""
        return Ids(self.run, self.plan.number, self.plan.key.agents, agent, seq)

    def prepare(self, agent: int, seq: int) -> Any:
        """All of a request that can be done before it is due; what `send` takes."""
        return self.ready(agent, seq) if self.lane is None else self.lane.prepare(agent, seq)

    def ready(self, agent: int, seq: int) -> Ready:
        """The same for the general way."""
        ids = self.ids(agent, seq)
        request = self.source.request(ids.stage, agent, seq)
        request.id = str(ids)
        return Ready(ids, request, self.backend.prepare(request))

    def send(self, due: float, ready: Any, then: Then) -> None:
        """Let a request fly; `then` is called when it has landed and was recorded."""
        if self.lane is not None:
            self.lane.send(ready, due, then)
            return
        watch = Stopwatch(self.clock, due)
        flight = Flight(self, watch, ready.ids, ready.request, then)
        self.flights.add(flight)
        flight.cancel = self.backend.begin(ready.prepared, watch, self.plan.timeout, flight)

    def flown(self, flight: Flown) -> None:
        """One has ended ok on the lane."""
        now = flight.ended
        self.between()
        flight.phase = self.phase(now)
        try:
            self.take(flight)  # type: ignore[arg-type]  # it reads as a record does
            flight.then("ok", now)
        except BaseException as error:  # noqa: BLE001  # raised again where the stage is driven
            self.fail(error)
        if not self.flights:
            self.landed_all()

    def hand_over(
        self, flown: Flown, connection: Any, reads: list[bytes], marks: array[float]
    ) -> Flight:
        """Let a request of the lane go the general way, with what came so far; it is sent if it
        was not."""
        ready, timeout = self.ready(flown.agent, flown.seq), self.plan.timeout
        watch = Stopwatch(self.clock, flown.due, marks=marks)
        flight = Flight(self, watch, ready.ids, ready.request, flown.then)
        self.flights.discard(flown)
        self.flights.add(flight)
        if connection is None:
            flight.cancel = self.backend.begin(ready.prepared, watch, timeout, flight)
        else:
            watch.sent_at = flown.sent
            begun = connection, reads, flown.deadline
            flight.cancel = self.backend.resume(  # type: ignore[attr-defined]  # it has a lane
                ready.prepared, watch, timeout, flight, begun
            )
        return flight

    @property
    def in_flight(self) -> int:
        """Requests due and not ended."""
        return len(self.flights)

    def abort(self) -> None:
        """Close the window and cancel what is in flight."""
        self.stop()
        self._aborted.set()

    def ended(
        self, watch: Stopwatch, facts: Facts, ids: Ids, now: float, request: Request | None = None
    ) -> None:
        """Write one request's record, and move the window if it is the one that does.

        Without a `request` none was made.
        """
        asked = None if request is None else request.output_tokens
        done = record(watch, facts, ids, self.phase(now), now, asked)
        self.take(done)
        if request is not None and request.wants_text:
            self.source.answered(ids, request, facts)

    def landed_all(self) -> None:
        """Nothing is in flight just now."""
        self._emptied.set()

    async def emptied(self) -> None:
        """Wait until nothing is in flight."""
        while self.flights:
            self._emptied.clear()
            await self._emptied.wait()

    def _load_over(self, driving: asyncio.Task[None]) -> None:
        if not driving.cancelled() and (error := driving.exception()) is not None:
            self.fail(error)
        self.close(self.clock())

    async def _drain(self) -> None:
        if self._failure is not None or not self.flights:
            return
        ways = [asyncio.create_task(way) for way in (self._aborted.wait(), self.emptied())]
        await asyncio.wait(ways, timeout=self.plan.grace, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()

    async def _give_up(self) -> None:
        """Cancel what still flies; the first error of recording it is the stage's."""
        for flight in tuple(self.flights):
            try:
                flight.give_up()
            except BaseException as error:  # noqa: BLE001  # raised again by `drive`
                self._failure = self._failure or error
        await asyncio.sleep(0)  # what was cancelled ends in the loop's next turn

    def _late(self, at: float, delays: list[float]) -> None:
        for seconds in delays:
            self.lagged(at, seconds)
        if self._stamped is not None:
            self._stamped.late(delays[0])


def _nothing() -> None:
    """What cancels a request that has not begun."""
