"""Waiting until a server takes requests, before anything else is asked of it.

A server that starts refuses connections, or answers its readiness page with 502, 503 or 504
while its model loads. Any other answer is one: what is wrong with it is the preflight's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from contract.errors import TargetError

PAUSE = 0.5  # seconds between two questions
REMINDER = 10.0  # seconds between two lines of progress
LONGEST_QUESTION = 10.0  # seconds
NOT_YET = (502, 503, 504)


class Waited(Protocol):
    """What can be waited for: a server backend, before it is opened."""

    address: str

    @property
    def ready_path(self) -> str: ...

    def connect(self) -> None: ...

    async def fetch(self, path: str, *, timeout: float) -> tuple[int, Any]: ...

    async def close(self) -> None: ...


async def wait_ready(server: Waited, seconds: float, said: Callable[[str], None]) -> None:
    """Return once `server` is ready; TargetError with the reason when it is not in time.

    `said` hears what it is waited for, now and then. The server is left closed.
    """
    now = asyncio.get_running_loop().time
    began, reminded = now(), None
    server.connect()
    try:
        while (why := await _why_not(server, began + seconds - now())) is not None:
            waited = now() - began
            if waited >= seconds:
                raise TargetError(f"{why}; waited {waited:.1f} s for it")
            if reminded is None or waited - reminded >= REMINDER:
                reminded = waited
                said(f"waiting for {server.address}, {waited:.0f} of {seconds:g} s: {why}")
            await asyncio.sleep(min(PAUSE, seconds - waited))
    finally:
        await server.close()
    if reminded is not None:
        said(f"{server.address} is ready after {now() - began:.1f} s")


async def wait_all_ready(
    servers: Iterable[Waited], seconds: float, said: Callable[[str], None]
) -> None:
    """The same of several at once; TargetError with the reason of each that is not in time."""
    waits = (wait_ready(server, seconds, said) for server in servers)
    ended = await asyncio.gather(*waits, return_exceptions=True)
    errors = [error for error in ended if error is not None]
    if errors and all(isinstance(error, TargetError) for error in errors):
        raise TargetError("; ".join(map(str, errors)))
    for error in errors:
        raise error


async def _why_not(server: Waited, left: float) -> str | None:
    """Why it is not ready, None if it is."""
    try:
        limit = min(LONGEST_QUESTION, max(PAUSE, left))
        status, _ = await server.fetch(server.ready_path, timeout=limit)
    except TargetError as error:
        return str(error)
    return f"{server.address} answers HTTP {status}, not ready" if status in NOT_YET else None
