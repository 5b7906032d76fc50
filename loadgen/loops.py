"""The two ways requests come about: agents that ask again, and arrivals that do not wait.

In a closed loop N independent agents have one request in flight each, always, but for their
think time. In an open loop requests are due at instants of their own, whatever the server
does; with a cap on those in flight the wait for a place counts, because `due` stays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from loadgen.engine import StageRun
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.ticker import tick

# A failing target must not be hammered: an agent waits this long, doubled up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

Waiting = deque[tuple[int, float]]  # number and due


@dataclass(frozen=True, slots=True)
class Closed:
    """`agents` independent agents; `think(agent, seq)` are the seconds before a request."""

    agents: int
    think: Callable[[int, int], float] | None = None

    async def drive(self, stage: StageRun) -> None:
        """Start the agents; they stop by themselves when the stage is over."""
        for number in range(self.agents):
            stage.spawn(partial(self._agent, stage, number))
        await asyncio.wait(tuple(stage.tasks))

    async def _agent(self, stage: StageRun, number: int) -> None:
        seq, pause = 0, FIRST_PAUSE
        while not stage.over:
            if self.think is not None and not await _rested(stage, self.think(number, seq)):
                return
            outcome = await stage.exchange(stage.clock(), stage.ids(number, seq))
            seq += 1
            if outcome in ("ok", "truncated"):
                pause = FIRST_PAUSE
            else:
                await _rested(stage, pause)
                pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class Open:
    """Requests due at `dues`, seconds after the stage began; at most `most` of them at once."""

    dues: Iterable[float]
    most: int | None = None

    async def drive(self, stage: StageRun) -> None:
        """Send what is due until the schedule or the stage ends, then wait for the answers.

        What was due and found no place before the end leaves a record as well: it was never
        sent, and cancelled.
        """
        waiting: Waiting = deque()
        schedule = ((number, stage.began + due) for number, due in enumerate(self.dues))

        def on_due(number: int, due: float) -> None:
            if self.most is not None and len(stage.tasks) >= self.most:
                waiting.append((number, due))
            else:
                stage.spawn(partial(_serve, stage, number, due, waiting))

        try:
            await tick(schedule, on_due, stage.clock, stage.origin)
            while stage.tasks:
                await asyncio.wait(tuple(stage.tasks))
        finally:
            for number, due in waiting:
                unsent = Facts("cancelled", content=(), error="no place before the stage closed")
                stage.ended(Stopwatch(stage.clock, due), unsent, stage.ids(0, number))


async def _serve(stage: StageRun, number: int, due: float, waiting: Waiting) -> None:
    """One request, then those that waited for its place."""
    await stage.exchange(due, stage.ids(0, number))
    while waiting and not stage.over:
        number, due = waiting.popleft()
        await stage.exchange(due, stage.ids(0, number))


async def _rested(stage: StageRun, seconds: float) -> bool:
    """Wait for so long; False when the stage closed meanwhile."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stage.closing.wait(), seconds)
    return not stage.over
