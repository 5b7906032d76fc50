"""The queue of a scripted server: slots in front of which requests wait in order of arrival."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


class Slots:
    """`count` slots and an unbounded FIFO. Work conserving: a slot that one request leaves at
    instant t is held by the next one from t, whenever its task comes to run."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[float]] = deque()

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return self._free == 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(not turn.cancelled() for turn in self._waiting)

    async def enter(self) -> float:
        """Wait for a slot; returns the monotonic instant from which it is held."""
        if self._free:
            self._free -= 1
            return time.monotonic()
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot was handed over before the cancellation came
                self.leave()
            raise

    def leave(self) -> float:
        """Hand the slot on, or free it; returns the instant."""
        now = time.monotonic()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(now)
                return now
        self._free += 1
        return now


@dataclass(slots=True)
class Visit:
    """One request as the server saw it, in monotonic seconds.

    [start, end) is exactly the time it held a slot; it is in the system from arrival to end.
    `loaded` is when the model was there for it, `first` and `last` when its tokens were made.
    """

    index: int
    arrival: float
    loaded: float | None = None
    start: float | None = None
    first: float | None = None
    last: float | None = None
    end: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    outcome: str = "in flight"
    request_id: str | None = None  # as its client named it

    @property
    def service_seconds(self) -> float | None:
        """Seconds in the slot, once it was left."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass(slots=True)
class VisitLog:
    """Every request of a server's life, and how many were in it at once."""

    clock: Callable[[], float] = time.monotonic
    visits: list[Visit] = field(default_factory=list)
    in_flight: int = 0
    in_flight_max: int = 0

    def arrive(self) -> Visit:
        """A request came in."""
        visit = Visit(len(self.visits), self.clock())
        self.visits.append(visit)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        return visit

    def depart(self, visit: Visit, outcome: str, at: float | None = None) -> None:
        """It left at monotonic instant `at`, or now."""
        visit.end, visit.outcome = self.clock() if at is None else at, outcome
        self.in_flight -= 1

    def in_flight_average(self) -> float | None:
        """Time average from the first arrival to the last end, over requests that ended."""
        spans = [(v.arrival, v.end) for v in self.visits if v.end is not None]
        if not spans:
            return None
        whole = max(end for _, end in spans) - min(arrival for arrival, _ in spans)
        return sum(end - arrival for arrival, end in spans) / whole if whole > 0 else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as `GET /fake/log` answers it."""
        served = [s for v in self.visits if (s := v.service_seconds) is not None]
        return {
            "clock": "monotonic seconds",
            "now": self.clock(),
            "now_unix": time.time(),
            "in_flight": self.in_flight,
            "in_flight_max": self.in_flight_max,
            "in_flight_average": self.in_flight_average(),
            "mean_service_seconds": sum(served) / len(served) if served else None,
            "requests": [
                {**asdict(visit), "service_seconds": visit.service_seconds} for visit in self.visits
            ],
        }
