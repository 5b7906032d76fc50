"""Signals as calls in the event loop, for as long as a run wants them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """Call `handler` with the number of each ending signal; afterwards all is as it was before.

    Needs a running loop in the main thread.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number, previous in before.items():
            loop.remove_signal_handler(number)  # which leaves the system's own way of ending
            if previous is not None:  # None: not installed from Python, and out of its reach
                signal.signal(number, previous)
