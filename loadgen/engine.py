"""One stage: a load driven against a backend, and the window in which it is measured.

The first completions are warm-up. The measured window [start, end) opens at the last of them
and closes on time or on count; what is in flight then is the drain. A request belongs to the
phase in which it ended. How requests come about is the load's affair (`loadgen.loops`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Protocol

from contract.records import Phase, RequestRecord, StageKey
from loadgen.backends.base import Backend, Request
from loadgen.stopwatch import Facts, Ids, Stopwatch, record
from loadgen.tally import Counts

Clock = Callable[[], float]
# Called with every record as its request ends; what it raises ends the stage.
Emit = Callable[[RequestRecord], None]

LAG_INTERVAL = 0.010
# So many completions, before an error share says anything.
FEWEST_FOR_A_SHARE = 20


class Source(Protocol):
    """Where requests come from; the same numbers give the same request."""

    def request(self, stage: int, agent: int, seq: int) -> Request: ...


class Load(Protocol):
    """How requests come about: `drive` spawns them until the stage is over."""

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
    in_flight: int = 0
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _failure: BaseException | None = None
    _cut: bool = False
    _aborted: asyncio.Event = field(default_factory=asyncio.Event)

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
            for task in (driving, lag, *self.tasks):
                task.cancel()
            await asyncio.gather(driving, lag, *self.tasks, return_exceptions=True)
            self.drained = self.clock()
        if self._failure is not None:
            raise self._failure

    def spawn(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run `work()` as a task of this stage; what it raises ends the stage."""
        task = asyncio.create_task(work())
        self.tasks.add(task)
        task.add_done_callback(self._task_over)

    async def exchange(self, due: float, ids: Ids) -> str:
        """One request from `due` to its record; returns the outcome."""
        watch = Stopwatch(self.clock, due=due)
        request = self.source.request(ids.stage, ids.agent, ids.seq)
        self.in_flight += 1
        try:
            facts = await self.backend.perform(request, watch, self.plan.timeout)
        except asyncio.CancelledError:
            self.ended(watch, Facts("cancelled", content=()), ids)
            raise
        finally:
            self.in_flight -= 1
        self.ended(watch, facts, ids)
        return facts.outcome

    def ids(self, agent: int, seq: int) -> Ids:
        """The name of one request of this stage."""
        return Ids(self.run, self.plan.number, self.plan.key.agents, agent, seq)

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

    def ended(self, watch: Stopwatch, facts: Facts, ids: Ids) -> None:
        """Write one request's record, and move the window if it is the one that does."""
        ended = self.clock()
        done = record(watch, facts, ids, self._phase(ended), ended)
        self.counts.add(done)
        self.emit(done)
        if math.isinf(self.start):
            self._perhaps_open(ended)
        elif done.phase == "measured":
            self._perhaps_close(ended)

    def _load_over(self, driving: asyncio.Task[None]) -> None:
        self._note_failure(driving)
        self._close(self.clock())

    def _task_over(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._note_failure(task)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self.abort()

    async def _drain(self) -> None:
        if self._failure is not None or not self.tasks:
            return
        aborted = asyncio.create_task(self._aborted.wait())
        everyone = asyncio.create_task(asyncio.wait(tuple(self.tasks)))
        await asyncio.wait(
            {aborted, everyone}, timeout=self.plan.grace, return_when=asyncio.FIRST_COMPLETED
        )
        aborted.cancel()
        everyone.cancel()

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
