"""What decides when a server's tokens are made: the step model, or a script's fixed times.

Both keep an absolute schedule on the event loop's clock: a token that leaves late makes no
later one late, and the next begins where the last one ended, whenever its task came to run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from loadgen.fakes.protocol import Ask, Job
from loadgen.fakes.script import Script
from loadgen.fakes.slots import Slots, Visit
from loadgen.fakes.steps import Generation, StepModel, Steps


class Turn(Protocol):
    """One request's turn; it stamps the visit it was taken for."""

    async def begin(self) -> None:
        """Wait until the answer may be opened."""
        ...

    def made(self) -> AsyncIterator[int]:
        """The tokens made so far, each time there are more; ends early once nobody waits."""
        ...

    def leave(self) -> float:
        """Give the place back; returns the instant from which it is free."""
        ...


class Pace(Protocol):
    """Hands out turns."""

    async def run(self) -> None:
        """Drive it until cancelled."""
        ...

    def full(self, ask: Ask) -> bool:
        """Whether the queue takes nobody more."""
        ...

    def facts(self) -> dict[str, float]:
        """What it says of itself in the log."""
        ...

    def take(self, visit: Visit, ask: Ask, gone: Callable[[], bool]) -> Turn:
        """A place in the queue; `gone` tells that the client hung up."""
        ...


async def until(instant: float) -> None:
    """Sleep to an instant of the loop's clock; never wakes before it."""
    now = asyncio.get_running_loop().time
    while (left := instant - now()) > 0:  # noqa: ASYNC110 - a deadline, not a poll
        await asyncio.sleep(left)


class Scripted:
    """`slots` places; each request holds one for the service time its script gives it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._slots = Slots(script.slots)

    async def run(self) -> None:
        """Its turns drive themselves."""
        await asyncio.Event().wait()

    def full(self, ask: Ask) -> bool:  # noqa: ARG002 - the seam's
        limit = self._script.queue_limit
        return limit is not None and self._slots.full and self._slots.waiting >= limit

    def facts(self) -> dict[str, float]:
        return {}

    def take(self, visit: Visit, ask: Ask, gone: Callable[[], bool]) -> ScriptedTurn:
        first, last = self._script.service(visit.index, ask.output)
        size = self._script.tokens_per_chunk
        counts = [*range(size, ask.output, size), ask.output]
        return ScriptedTurn(self._slots, visit, counts, (first, last), gone)


class ScriptedTurn:
    """Its `counts` of tokens are reached evenly between the two instants of its span."""

    def __init__(
        self,
        slots: Slots,
        visit: Visit,
        counts: list[int],
        span: tuple[float, float],
        gone: Callable[[], bool],
    ) -> None:
        self._slots = slots
        self._visit = visit
        self._counts = counts
        self._span = span
        self._gone = gone
        self._held = False

    async def begin(self) -> None:
        start = await self._slots.enter()
        self._held = True
        if not self._gone():
            self._visit.start = start

    async def made(self) -> AsyncIterator[int]:
        visit, (first, last) = self._visit, self._span
        start = visit.start or 0.0
        visit.first, visit.last = start + first, start + last
        step = (last - first) / max(1, len(self._counts) - 1)
        for number, count in enumerate(self._counts):
            whole = number == len(self._counts) - 1
            await until(visit.last if whole else visit.first + number * step)
            yield count

    def leave(self) -> float:
        return self._slots.leave() if self._held else asyncio.get_running_loop().time()


class Stepped:
    """The step model in real time."""

    def __init__(self, model: StepModel, runner: str = "", *, loading_only: bool = False) -> None:
        self.steps = Steps(model, runner, asyncio.get_running_loop().time())
        self.lag = 0.0  # the longest any tokens left late, seconds
        self._loading_only = loading_only
        self._wake = asyncio.Event()

    def now(self) -> float:
        """The loop's clock."""
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        while True:
            self._forget_the_gone()
            start = self.steps.next_start()
            if start is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            end = self.steps.begin(start)
            await until(end)
            self.lag = max(self.lag, self.now() - end)
            for one in self.steps.finish():
                one.told()
            await asyncio.sleep(0)  # whom a last token set free may come back in this instant

    def full(self, ask: Ask) -> bool:
        if self._loading_only and self.steps.is_ready(ask.runner, self.now()):
            return False
        return self.steps.full()

    def facts(self) -> dict[str, float]:
        return {
            "steps": self.steps.steps,
            "loads": self.steps.loads,
            "lag_seconds_max": self.lag,
        }

    def take(self, visit: Visit, ask: Ask, gone: Callable[[], bool]) -> SteppedTurn:
        keep = self.steps.model.idle_seconds if ask.keep_alive is None else ask.keep_alive
        one = Generation(
            ask.prompt,
            ask.output,
            self.now(),
            ask.runner,
            budget=ask.tokens,
            keep_alive=None if keep is None or keep < 0 else keep,
            reuse=ask.reuse,
            said=lambda made: Job(ask, visit).texts(0, made).split(),
            gone=gone,
        )
        turn = SteppedTurn(self, one, visit)
        self.submit(one)
        return turn

    def submit(self, one: Generation) -> None:
        """Queue it and see to it that it is served."""
        self.steps.submit(one)
        self._wake.set()

    def drop(self, one: Generation) -> None:
        """Nobody waits for it any more."""
        self.steps.drop(one, self.now())

    def resume(self) -> None:
        """Go on after `steps.pause()`."""
        self.steps.resume(self.now())
        self._wake.set()

    def _forget_the_gone(self) -> None:
        for one in [one for one in self.steps.queue if one.gone()]:
            self.drop(one)
            one.told()


class SteppedTurn:
    """One generation among the others of its batch."""

    def __init__(self, pace: Stepped, one: Generation, visit: Visit) -> None:
        self._pace = pace
        self._one = one
        self._visit = visit
        self._news = asyncio.Event()
        one.told = self._news.set

    async def begin(self) -> None:
        """The answer may be opened at once."""

    async def made(self) -> AsyncIterator[int]:
        one, seen = self._one, 0
        while not one.over or one.made > seen:
            if one.made == seen:
                await self._news.wait()
                self._news.clear()
            self._stamp()
            if one.made > seen:
                seen = one.made
                yield seen
        self._stamp()

    def leave(self) -> float:
        self._pace.drop(self._one)
        self._stamp()
        finished = self._one.last if self._one.made == self._one.output else None
        return self._pace.now() if finished is None else finished

    def _stamp(self) -> None:
        visit, one = self._visit, self._one
        visit.loaded, visit.start, visit.first = one.loaded, one.start, one.first
        visit.last, visit.cached_tokens = one.last, one.cached
        visit.preemptions = one.preemptions
