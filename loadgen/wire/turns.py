"""Work that can wait, in portions: between two of them the event loop reads what has come.

The end of an answer takes longer to deal with than many reads. Where many end at once, tokens of
others would queue up meanwhile, and those that are read together have one stamp.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

PORTION = 0.0003  # seconds of it in one turn of the loop; what was begun then is finished

T = TypeVar("T")


class Turns(Generic[T]):
    """Calls `work` with what it is given: at once, or in a later turn once this one had its
    portion; always in order."""

    __slots__ = ("_clock", "_loop", "_until", "_waiting", "_work")

    def __init__(self, work: Callable[[T], None], clock: Callable[[], float] = monotonic) -> None:
        self._work = work
        self._clock = clock
        self._waiting: deque[T] = deque()
        self._until = 0.0  # when the portion of this turn is over; 0: nothing was done in it yet
        self._loop = asyncio.get_running_loop()

    def take(self, what: T) -> None:
        """Have it worked on."""
        if not self._until:
            self._begin()
        elif self._waiting or self._clock() > self._until:
            self._waiting.append(what)
            return
        self._work(what)

    def drop(self, what: T) -> None:
        """Forget it, if it waits."""
        if what in self._waiting:
            self._waiting.remove(what)

    def _begin(self) -> None:
        self._until = self._clock() + PORTION
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        """The loop's next turn, before it looks for what has come."""
        self._until = 0.0
        if not self._waiting:
            return
        self._begin()
        while self._waiting and self._clock() <= self._until:
            self._work(self._waiting.popleft())
