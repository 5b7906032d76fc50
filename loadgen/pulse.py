"""How late the event loop gets round to what has come, seen by a timer that does not wait for it.

On Linux a timerfd expires on its own, however long the loop is busy, and every expiration counts
with its own delay, those that came together as well: so the delays are those of arrivals at even
instants. A timer of the loop is set anew only once the loop is free, and sees none of the rest.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from loadgen.ticker import set_timer, timerfd

# Seconds. Ten gaps of a round number are no multiple of it, so it does not fall in step with them.
INTERVAL = 0.0037
LOOP_INTERVAL = 0.010  # of a loop's own timer, which costs more and says less
MOST = 1000  # delays told of one standstill, evenly spread over it

Clock = Callable[[], float]
# Called with the instant, and the delays of all beats seen then, the longest first; seconds.
Late = Callable[[float, list[float]], None]


class Pulse:
    """Beats from now on until it is closed. `origin` is `time.monotonic()` at the clock's zero;
    without it the loop's timer is used."""

    def __init__(self, late: Late, clock: Clock, origin: float | None = None) -> None:
        self._late = late
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._due = clock()  # of the next beat, from here on
        self._descriptor = None if origin is None else timerfd()
        self._timer: asyncio.TimerHandle | None = None
        if self._descriptor is None or origin is None:
            self._interval = LOOP_INTERVAL
            self._set()
        else:
            self._interval = INTERVAL
            self._due += INTERVAL
            first, every = round((origin + self._due) * 1e9), round(INTERVAL * 1e9)
            set_timer(self._descriptor, first, every)
            self._loop.add_reader(self._descriptor, self._expired, self._descriptor)

    def close(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _set(self) -> None:
        self._due += LOOP_INTERVAL
        self._timer = self._loop.call_later(max(0.0, self._due - self._clock()), self._rung)

    def _rung(self) -> None:
        now = self._clock()
        missed = max(0, int((now - self._due) / LOOP_INTERVAL))
        self._tell(now, 1 + missed)
        self._due += missed * LOOP_INTERVAL
        self._set()

    def _expired(self, descriptor: int) -> None:
        try:
            times = int.from_bytes(os.read(descriptor, 8), sys.byteorder)
        except BlockingIOError:
            return
        self._tell(self._clock(), times)
        self._due += times * self._interval

    def _tell(self, now: float, times: int) -> None:
        late = now - self._due
        self._late(now, [max(0.0, late - beat * self._interval) for beat in spread(times)])


def spread(times: int) -> range:
    """Which of so many beats are told: all, or evenly chosen ones, the first among them."""
    return range(0, times, -(-times // MOST) or 1)
