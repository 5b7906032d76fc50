"""The two ways requests come about: agents that ask again, and arrivals that do not wait.

In a closed loop N independent agents have one request in flight each, always, but for their
think time. In an open loop requests are due at instants of their own, whatever the server
does; with a cap on those in flight the wait for a place counts, because `due` stays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from contract.shards import WHOLE, Part
from loadgen.engine import Ready, StageRun
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.ticker import Ticking
from loadgen.workload.arrivals import shard

# A failing target must not be hammered: an agent waits this long, doubled up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
AHEAD = 32  # arrivals prepared beforehand
SOON = 0.0001  # seconds before one is due in which none is prepared
AT_ONCE = 8  # agents that begin in one turn of the event loop

Think = Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class Closed:
    """`agents` independent agents; `think(agent, seq)` are the seconds before a request."""

    agents: int
    think: Think | None = None
    part: Part = WHOLE

    @property
    def at_once(self) -> int:
        """All of its own agents."""
        return self.part.share(self.agents)

    def dealt(self, part: Part) -> Closed:
        """The agents that one shard has of them; they keep their numbers."""
        return replace(self, part=part)

    async def drive(self, stage: StageRun) -> None:
        """Start the agents; they ask until the stage is over."""
        own = self.part.numbers(self.agents)
        agents = [_Agent(stage, number, self.think) for number in own]
        try:
            for place, agent in enumerate(agents):
                agent.go_on(stage.clock())
                if place % AT_ONCE == 0:
                    await asyncio.sleep(0)  # the first answers are there before the last agent is
            await stage.closing.wait()
        finally:
            for agent in agents:
                agent.rest()


class _Agent:
    """One agent: it thinks, asks, and asks again when its request has landed."""

    __slots__ = ("_pause", "_seq", "_stage", "_think", "_timer", "number")

    def __init__(self, stage: StageRun, number: int, think: Think | None) -> None:
        self._stage = stage
        self.number = number
        self._think = think
        self._seq = 0
        self._pause = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None

    def go_on(self, now: float) -> None:
        """Think, then ask."""
        if self._think is None:
            self._ask(now)
        else:
            self._later(self._think(self.number, self._seq), self._wake)

    def rest(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        self._ask(self._stage.clock())

    def _ask(self, due: float) -> None:
        stage = self._stage
        if stage.closing.is_set() or due >= stage.end:
            return
        seq = self._seq
        self._seq += 1
        stage.send(due, stage.prepare(self.number, seq), self._answered)

    def _answered(self, outcome: str, now: float) -> None:
        if outcome in ("ok", "truncated"):
            self._pause = FIRST_PAUSE
            self.go_on(now)
        else:
            self._later(self._pause, self._recovered)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _recovered(self) -> None:
        self.go_on(self._stage.clock())

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if not self._stage.over:
            self._timer = asyncio.get_running_loop().call_later(seconds, call)


@dataclass(frozen=True, slots=True)
class Open:
    """Requests due at `dues`, seconds after the stage began; at most `most` of them at once."""

    dues: Iterable[float]
    most: int | None = None
    part: Part = WHOLE

    @property
    def at_once(self) -> int:
        """One, as far as is known."""
        return 1

    def dealt(self, part: Part) -> Open:
        """The arrivals that one shard has of them, and its share of the places."""
        return replace(self, part=part)

    async def drive(self, stage: StageRun) -> None:
        """Send what is due until the schedule or the stage ends, then wait for the answers.

        What was due and found no place before the end leaves a record as well: it was never
        sent, and cancelled.
        """
        most = None if self.most is None else self.part.share(self.most)
        arrivals = _Arrivals(stage, shard(self.dues, *self.part), most)
        stage.between = arrivals.ticking.look
        try:
            await arrivals.ticking.run(stage.origin)
            await stage.emptied()
        finally:
            arrivals.turn_away()


class _Arrivals:
    """What is due next, prepared beforehand, and those that wait for a place."""

    def __init__(
        self, stage: StageRun, dues: Iterator[tuple[int, float]], most: int | None
    ) -> None:
        self._stage = stage
        self._most = most
        self._next: Ready | None = None
        self._ahead: deque[tuple[int, float, Ready | None]] = deque()
        self._waiting: deque[tuple[int, float, Ready | None]] = deque()
        self.ticking = Ticking(self._schedule(dues), self._due, stage.clock)

    def _schedule(self, dues: Iterator[tuple[int, float]]) -> Iterator[tuple[int, float]]:
        """Number and instant of each; walking on prepares what comes, so that several that are
        due at once are only sent."""
        while self._look_ahead(dues):
            number, due, self._next = self._ahead.popleft()
            yield number, due

    def _look_ahead(self, coming: Iterator[tuple[int, float]]) -> bool:
        """Prepare up to two more, unless it is nearly time to send; whether anything is to come."""
        stage, ahead = self._stage, self._ahead
        for _ in range(2):
            if ahead and (len(ahead) >= AHEAD or ahead[0][1] <= stage.clock() + SOON):
                break
            if (found := next(coming, None)) is None:
                break
            number, due = found
            # Nothing is made beforehand that an answer may change.
            ready = None if stage.source.listens else stage.prepare(0, number)
            ahead.append((number, stage.began + due, ready))
        return bool(ahead)

    def _due(self, number: int, due: float) -> None:
        """Send it, or let it wait for a place."""
        if self._most is not None and len(self._stage.flights) >= self._most:
            self._waiting.append((number, due, self._next))
        else:
            self._send(number, due, self._next)

    def turn_away(self) -> None:
        """Those that still wait were never sent."""
        stage = self._stage
        for number, due, ready in self._waiting:
            unsent = Facts("cancelled", content=(), error="no place before the stage closed")
            watch, request = Stopwatch(stage.clock, due), ready and ready.request
            stage.ended(watch, unsent, stage.ids(0, number), stage.clock(), request)

    def _landed(self, _outcome: str, _now: float) -> None:
        if self._waiting and not self._stage.over:
            self._send(*self._waiting.popleft())
        self.ticking.look()

    def _send(self, number: int, due: float, ready: Ready | None) -> None:
        self._stage.send(due, ready or self._stage.prepare(0, number), self._landed)
