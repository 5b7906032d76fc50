"""One stage of a closed loop: N independent agents, each with one request in flight, always.

The first completions are warm-up. The measured window [start, end) opens at the last of them
and closes on time or on count; what is in flight then is the drain. A request belongs to the
phase in which it ended.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from contract.records import Phase, RequestRecord, StageKey
from loadgen.backends.base import Backend
from loadgen.prompts import PromptSource
from loadgen.stopwatch import Facts, Ids, Stopwatch, record
from loadgen.tally import Tally

Clock = Callable[[], float]
# Called with every record as its request ends; what it raises ends the stage.
Emit = Callable[[RequestRecord], None]

LAG_INTERVAL = 0.010
# A failing target must not be hammered: an agent waits this long, doubled up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage as it is asked for; exactly one of `seconds` and `requests` is given."""

    number: int
    key: StageKey
    warmup: int
    seconds: float | None
    requests: int | None
    timeout: float
    grace: float


@dataclass(slots=True)
class StageRun:
    """A stage in progress: its window, its tally, and the order to stop.

    `opened` fires when the window opens, with its start.
    """

    run: str
    plan: StagePlan
    backend: Backend
    prompts: PromptSource
    clock: Clock
    emit: Emit
    opened: Callable[[float], None] = lambda _start: None
    tally: Tally = field(default_factory=Tally)
    began: float = 0.0
    start: float = math.inf
    end: float = math.inf
    drained: float = 0.0
    in_flight: int = 0
    _completions: int = 0
    _cut: bool = False
    _closing: asyncio.Event = field(default_factory=asyncio.Event)
    _aborted: asyncio.Event = field(default_factory=asyncio.Event)

    async def drive(self) -> None:
        """Run the stage to the end of its drain. Cancelling aborts what is in flight; each
        request leaves exactly one record either way."""
        self.began = self.clock()
        if self.plan.warmup == 0:
            self._open(self.began)
        agents = [
            asyncio.create_task(self._agent(number)) for number in range(self.plan.key.agents)
        ]
        lag = asyncio.create_task(self._watch_loop_lag())
        try:
            await self._until_closing(agents)
            await self._drain(agents)
        finally:
            for task in (*agents, lag):
                task.cancel()
            await asyncio.gather(*agents, lag, return_exceptions=True)
            self.drained = self.clock()
        for task in agents:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    @property
    def complete(self) -> bool:
        """Whether the window closed by itself, on time or on count."""
        return not self._cut and math.isfinite(self.end)

    def stop(self) -> None:
        """Close the window now; the stage stays incomplete."""
        self._cut = self._cut or self.clock() < self.end
        self._close(self.clock())

    def abort(self) -> None:
        """Close the window and cancel what is in flight."""
        self.stop()
        self._aborted.set()

    async def _until_closing(self, agents: list[asyncio.Task[None]]) -> None:
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait([closing, *agents], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()

    async def _drain(self, agents: list[asyncio.Task[None]]) -> None:
        failed = any(task.done() and task.exception() is not None for task in agents)
        if failed:
            return
        aborted = asyncio.create_task(self._aborted.wait())
        everyone = asyncio.create_task(asyncio.wait(agents))
        await asyncio.wait(
            {aborted, everyone}, timeout=self.plan.grace, return_when=asyncio.FIRST_COMPLETED
        )
        aborted.cancel()
        everyone.cancel()

    async def _agent(self, number: int) -> None:
        seq, pause = 0, FIRST_PAUSE
        while not self._over():
            watch = Stopwatch(self.clock, due=self.clock())
            ids = Ids(self.run, self.plan.number, self.plan.key.agents, number, seq)
            outcome = await self._exchange(watch, ids)
            seq += 1
            if outcome in ("ok", "truncated"):
                pause = FIRST_PAUSE
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _exchange(self, watch: Stopwatch, ids: Ids) -> str:
        request = self.prompts.request(ids.stage, ids.agent, ids.seq)
        self.in_flight += 1
        try:
            facts = await self.backend.perform(request, watch, self.plan.timeout)
        except asyncio.CancelledError:
            self._ended(watch, Facts("cancelled", content=()), ids)
            raise
        finally:
            self.in_flight -= 1
        self._ended(watch, facts, ids)
        return facts.outcome

    def _ended(self, watch: Stopwatch, facts: Facts, ids: Ids) -> None:
        ended = self.clock()
        done = record(watch, facts, ids, self._phase(ended), ended)
        self.tally.add(done)
        self.emit(done)
        self._completions += 1
        if self._completions == self.plan.warmup:
            self._open(ended)
        measured = self._completions - self.plan.warmup
        if self.plan.requests is not None and measured == self.plan.requests:
            self._close(math.nextafter(ended, math.inf))

    def _phase(self, ended: float) -> Phase:
        if ended >= self.end:
            return "drain"
        return "warmup" if self._completions < self.plan.warmup else "measured"

    def _open(self, start: float) -> None:
        if self._completions and self.tally.ok == 0:
            self.stop()  # the whole warm-up failed: measuring would only hammer the target
            return
        self.start = start
        self.opened(start)
        if self.plan.seconds is not None:
            self.end = start + self.plan.seconds
            asyncio.get_running_loop().call_later(self.plan.seconds, self._closing.set)

    def _close(self, end: float) -> None:
        if not self._closing.is_set():
            self.start = min(self.start, end)
            self.end = min(self.end, end)
            self._closing.set()

    def _over(self) -> bool:
        return self._closing.is_set() or self.clock() >= self.end

    async def _watch_loop_lag(self) -> None:
        """How late this loop wakes a timer, while the window is open."""
        while True:
            due = self.clock() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            now = self.clock()
            if self.start <= now < self.end:
                self.tally.loop_lags.append(max(0.0, now - due))
