"""Open-loop time: calls at absolute instants, never early, all from one timer.

On Linux a timerfd on CLOCK_MONOTONIC, armed with the absolute instant, wakes the event loop:
an event loop's own timers are relative and, in uvloop, rounded to milliseconds. Elsewhere, and
in virtual time, the loop's timer does it.
"""

from __future__ import annotations

import asyncio
import math
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

# The engine's clock is rounded to the nanosecond: closer than this is not early.
RESOLUTION = 1e-9
# What is due at once is called in runs of this length, so that reads get their turn between.
MOST_AT_ONCE = 16

OnDue = Callable[[int, float], None]
Clock = Callable[[], float]

_MONOTONIC, _ABSOLUTE = 1, 1
_ITIMERSPEC = struct.Struct("@4l")  # interval, then the instant; seconds and nanoseconds each


class Alarm(Protocol):
    """Rings once at or after the instant it was last set to (may ring early: look again)."""

    def set(self, instant: float) -> None: ...

    def close(self) -> None: ...


async def tick(
    schedule: Iterable[tuple[int, float]],
    on_due: OnDue,
    clock: Clock,
    origin: float | None = None,
) -> None:
    """Call `on_due(number, due)` for each entry, in order, when `clock()` has reached its due.

    `due` is in the clock's seconds and must not decrease; what is overdue is called at once,
    with its own due. `origin` is `time.monotonic()` at the clock's zero; without it the loop's
    timer is used. Returns after the last call; what `on_due` raises ends it; cancelling stops.
    """
    await Ticking(iter(schedule), on_due, clock).run(origin)


async def wait_until(instant: float, clock: Clock, origin: float | None = None) -> None:
    """Return at `instant` of the clock or right after, at once when it has passed."""
    await tick([(0, instant)], lambda _number, _due: None, clock, origin)


def open_alarm(ring: Callable[[], None], clock: Clock, origin: float | None) -> Alarm:
    """The best alarm of the running loop: the kernel's when the clock's origin is known."""
    loop = asyncio.get_running_loop()
    if origin is not None:
        descriptor = timerfd()
        if descriptor is not None:
            return KernelAlarm(loop, ring, descriptor, origin)
    return LoopAlarm(loop, ring, clock)


class LoopAlarm:
    """The event loop's timer."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None], clock: Clock
    ) -> None:
        self._loop, self._ring, self._clock = loop, ring, clock
        self._handle: asyncio.TimerHandle | None = None

    def set(self, instant: float) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0.0, instant - self._clock()), self._ring)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class KernelAlarm:
    """A timerfd; its reads tell the loop that the instant has come."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ring: Callable[[], None],
        descriptor: int,
        origin: float,
    ) -> None:
        self._loop, self._ring, self._descriptor, self._origin = loop, ring, descriptor, origin
        loop.add_reader(descriptor, self._readable)

    def set(self, instant: float) -> None:
        # Rounded up, so that it never rings early; 0 would disarm it.
        set_timer(self._descriptor, max(1, math.ceil((self._origin + instant) * 1e9)))

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _readable(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:  # set anew between its ringing and this read
            return
        self._ring()


def timerfd() -> int | None:
    """A new timerfd on CLOCK_MONOTONIC, or None where the system has none."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return None
    try:
        descriptor: int = _libc().timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    except AttributeError:  # a C library without it
        return None
    return descriptor if descriptor >= 0 else None


def set_timer(descriptor: int, instant: int, every: int = 0) -> None:
    """Let a timerfd expire at an instant of CLOCK_MONOTONIC, not 0, and from then on `every` so
    often; nanoseconds. OSError."""
    spec = _ITIMERSPEC.pack(*divmod(every, 1_000_000_000), *divmod(instant, 1_000_000_000))
    if _libc().timerfd_settime(descriptor, _ABSOLUTE, spec, None) != 0:
        import ctypes

        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _libc() -> Any:
    global _LIBRARY  # noqa: PLW0603  # loaded once, at the first timer, not at import
    if _LIBRARY is None:
        import ctypes

        _LIBRARY = ctypes.CDLL(None, use_errno=True)
    return _LIBRARY


_LIBRARY: Any = None


class Ticking:
    """One pass over a schedule; what `tick` does, and looking between two rings."""

    def __init__(self, schedule: Iterator[tuple[int, float]], on_due: OnDue, clock: Clock) -> None:
        self._schedule, self._on_due, self._clock = schedule, on_due, clock
        self._next = next(schedule, None)
        self._alarm: Alarm | None = None
        self._calling = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, origin: float | None = None) -> None:
        """To its end."""
        self._alarm = open_alarm(self._ring, self._clock, origin)
        try:
            self._ring()
            await self._over
        finally:
            self._alarm.close()
            self._alarm = None

    def look(self) -> None:
        """Call at once what is due already: whoever does much in one turn of the event loop lets
        the schedule go first with it."""
        if self._alarm is None or self._calling or self._next is None:
            return
        if self._next[1] <= self._clock():
            self._ring()

    def _ring(self) -> None:
        """Call what is due, then set the alarm for what comes next."""
        if self._over.done():
            return
        self._calling = True
        try:
            self._call_what_is_due()
        except BaseException as error:  # noqa: BLE001  # goes to whoever awaits the ticking
            self._over.set_exception(error)
            return
        finally:
            self._calling = False
        if self._next is None:
            self._over.set_result(None)
        elif self._alarm is not None:
            self._alarm.set(self._next[1])

    def _call_what_is_due(self) -> None:
        for _ in range(MOST_AT_ONCE):
            if self._next is None or self._next[1] > self._clock() + RESOLUTION:
                return
            self._on_due(*self._next)
            self._next = next(self._schedule, None)  # may take long, hence after the call
