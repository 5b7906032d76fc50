"""`loadgen` with an event loop that something else holds for 8 ms of every 10."""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

HELD, FREE = 0.008, 0.002  # seconds

make_loop = uvloop.new_event_loop


def new_event_loop() -> asyncio.AbstractEventLoop:
    loop = make_loop()

    def hold() -> None:
        until = time.perf_counter() + HELD
        while time.perf_counter() < until:
            pass
        loop.call_later(FREE, hold)

    loop.call_soon(hold)
    return loop


if __name__ == "__main__":
    uvloop.new_event_loop = new_event_loop
    from loadgen.cli import main

    sys.exit(main())
