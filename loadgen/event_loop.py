"""The event loop that drives a run: uvloop where it is installed."""

from __future__ import annotations

import asyncio
from contextlib import suppress


def runner() -> asyncio.Runner:
    """Runs one coroutine to its end, in a loop of its own."""
    factory = None
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    return asyncio.Runner(loop_factory=factory)
