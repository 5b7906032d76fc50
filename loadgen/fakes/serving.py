"""A server in the foreground of a process, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from contract.errors import ConfigError
from loadgen.fakes.server import Server


async def serve(server: Server, opens_after: float = 0.0) -> int:
    """Bind, wait, listen, and serve until SIGINT or SIGTERM; returns 130 or 143.

    ConfigError when the port cannot be had.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stopped, number)
    try:
        server.bind()
        await asyncio.wait([stopped], timeout=opens_after)
        if not stopped.done():
            await _listen(server, stopped)
    except OSError as error:
        raise ConfigError(f"{server.asked}: {error.strerror}") from error
    return 128 + stopped.result()


async def _listen(server: Server, stopped: asyncio.Future[int]) -> None:
    async with server:
        print(f"listening on {server.url}", flush=True)
        failing = asyncio.ensure_future(server.driven())
        either: set[asyncio.Future[Any]] = {stopped, failing}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await failing
        failing.cancel()


def _stop(stopped: asyncio.Future[int], number: int) -> None:
    if not stopped.done():
        stopped.set_result(number)
