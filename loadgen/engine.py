"""One stage: a load driven against a backend, and the window in which it is measured.

The first completions are warm-up. The measured window [start, end) opens at the last of them
and closes on time or on count; what is in flight then is the drain. A request belongs to the
phase in which it ended. How requests come about is the load's affair (`loadgen.loops`).

A request is a `Flight`, from the instant it is due to its record, and calls back when it lands:
a task for each would cost more than the request itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from contract.records import Phase, RequestRecord, StageKey
from loadgen.backends.base import Backend, Request
from loadgen.stopwatch import Facts, Ids, Stopwatch, record
from loadgen.tally import Counts

Clock = Callable[[], float]
# Called with every record as its request ends; what it raises ends the stage.
Emit = Callable[[RequestRecord], None]
# What a load does when a request of it has landed: its outcome, and the instant.
Then = Callable[[str, float], None]

LAG_INTERVAL = 0.010
# So many completions, before an error share says anything.
FEWEST_FOR_A_SHARE = 20


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
        if self not in stage.flights:
            return  # given up before
        stage.flights.discard(self)
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
        self.cancel()
        stage = self.stage
        stage.flights.discard(self)
        facts = Facts("cancelled", content=())
        stage.ended(self.watch, facts, self.ids, stage.clock(), self.request)


@dataclass(slots=True)
class StageRun:
    """A stage in progress: its window, its counters, and the order to stop.

    `opened` fires when the window opens, with its start. `origin` is `time.monotonic()` at the
    clock's zero, where the clock is that one.
    """

    run: str
    plan: StagePlan
    backend: Backend
    source: Source
    clock: Clock
    emit: Emit
    opened: Callable[[float], None] = lambda _start: None
    origin: float | None = None
    counts: Counts = field(default_factory=Counts)
    began: float = 0.0
    start: float = math.inf
    end: float = math.inf
    drained: float = 0.0
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    flights: set[Flight] = field(default_factory=set)
    _failure: BaseException | None = None
    _cut: bool = False
    _aborted: asyncio.Event = field(default_factory=asyncio.Event)
    _emptied: asyncio.Event = field(default_factory=asyncio.Event)

    async def drive(self) -> None:
        """Run the stage to the end of its drain. Cancelling aborts what is in flight; each
        request leaves exactly one record either way."""
        self.began = self.clock()
        if self.plan.warmup == 0 and self.plan.warmup_seconds == 0:
            self._open(self.began)
        lag = asyncio.create_task(self._watch_loop_lag())
        driving = asyncio.create_task(self.plan.load.drive(self))
        driving.add_done_callback(self._load_over)
        try:
            await self.closing.wait()
            driving.cancel()
            await self._drain()
        finally:
            for task in (driving, lag):
                task.cancel()
            await asyncio.gather(driving, lag, return_exceptions=True)
            await self._give_up()
            self.drained = self.clock()
        if self._failure is not None:
            raise self._failure

    def ids(self, agent: int, seq: int) -> Ids:
        """The name of one request of this stage."""
        return Ids(self.run, self.plan.number, self.plan.key.agents, agent, seq)

    def prepare(self, agent: int, seq: int) -> Ready:
        """All of a request that can be done before it is due."""
        ids = self.ids(agent, seq)
        request = self.source.request(ids.stage, agent, seq)
        request.id = str(ids)
        return Ready(ids, request, self.backend.prepare(request))

    def send(self, due: float, ready: Ready, then: Then) -> None:
        """Let a request fly; `then` is called when it has landed and was recorded."""
        watch = Stopwatch(self.clock, due)
        flight = Flight(self, watch, ready.ids, ready.request, then)
        self.flights.add(flight)
        flight.cancel = self.backend.begin(ready.prepared, watch, self.plan.timeout, flight)

    @property
    def in_flight(self) -> int:
        """Requests due and not ended."""
        return len(self.flights)

    @property
    def over(self) -> bool:
        """Whether no further request is wanted."""
        return self.closing.is_set() or self.clock() >= self.end

    @property
    def complete(self) -> bool:
        """Whether the window closed by itself: on time, on count, or with its schedule."""
        return not self._cut and math.isfinite(self.end)

    def stop(self) -> None:
        """Close the window now; the stage stays incomplete."""
        self._cut = self._cut or self.clock() < self.end
        self._close(self.clock())

    def abort(self) -> None:
        """Close the window and cancel what is in flight."""
        self.stop()
        self._aborted.set()

    def fail(self, error: BaseException) -> None:
        """End the stage; `drive` raises the first such error."""
        self._failure = self._failure or error
        self.abort()

    def ended(
        self, watch: Stopwatch, facts: Facts, ids: Ids, now: float, request: Request | None = None
    ) -> None:
        """Write one request's record, and move the window if it is the one that does.

        Without a `request` none was made.
        """
        asked = None if request is None else request.output_tokens
        done = record(watch, facts, ids, self._phase(now), now, asked)
        self.counts.add(done)
        self.emit(done)
        if request is not None and request.wants_text:
            self.source.answered(ids, request, facts)
        if math.isinf(self.start):
            self._perhaps_open(now)
        elif done.phase == "measured":
            self._perhaps_close(now)

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
        self._close(self.clock())

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

    def _perhaps_open(self, ended: float) -> None:
        warm = ended - self.began >= self.plan.warmup_seconds
        if self.counts.sent >= self.plan.warmup and warm:
            self._open(ended)

    def _perhaps_close(self, ended: float) -> None:
        measured = self.counts.measured
        if measured == self.plan.requests:
            self._close(math.nextafter(ended, math.inf))
        most = self.plan.most_errors
        failed = measured - self.counts.outcomes["ok"]
        if most is not None and measured >= FEWEST_FOR_A_SHARE and failed > most * measured:
            self.stop()

    def _phase(self, ended: float) -> Phase:
        if ended >= self.end:
            return "drain"
        return "warmup" if math.isinf(self.start) else "measured"

    def _open(self, start: float) -> None:
        if self.counts.sent and self.counts.ok == 0:
            self.stop()  # the whole warm-up failed: measuring would only hammer the target
            return
        self.start = start
        self.opened(start)
        if self.plan.seconds is not None:
            self.end = start + self.plan.seconds
            asyncio.get_running_loop().call_later(self.plan.seconds, self.closing.set)

    def _close(self, end: float) -> None:
        if not self.closing.is_set():
            self.start = min(self.start, end)
            self.end = min(self.end, end)
            self.closing.set()

    async def _watch_loop_lag(self) -> None:
        """How late this loop wakes a timer, while the window is open."""
        while True:
            due = self.clock() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            now = self.clock()
            if self.start <= now < self.end:
                self.counts.loop_lags.coarse(max(0.0, now - due))


def _nothing() -> None:
    """What cancels a request that has not begun."""
