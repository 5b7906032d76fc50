"""The stock aiohttp session: the client that ours is held against, chosen with `client`.

Slower, and its stamps are those of its own reads; the facts must be the same.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import yarl

from contract.errors import BackendError
from loadgen.backends.base import Trip, WireRequest, WireResponse
from loadgen.figures.stamp_stats import StampStats
from loadgen.stopwatch import Stopwatch
from loadgen.wire.answer import BODY_BUDGET, KEPT_BUDGET
from loadgen.wire.connect import refusal
from loadgen.wire.exchange import Asked

_LARGE_BODY = 2**20  # bytes from which aiohttp wants a file


class StockClient:
    """The same exchanges as `WireClient`'s. Everything of a response is kept."""

    body_budget = BODY_BUDGET
    kept_budget = KEPT_BUDGET

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self.stamps = StampStats()
        self._address = address
        self._id_given = any(name.lower() == "x-request-id" for name in headers)
        # The second session opens a connection for every exchange: the retry's.
        self._sessions = tuple(_session(headers, fresh=fresh) for fresh in (False, True))

    def render(
        self, wire: WireRequest, method: str = "POST", request_id: str = ""
    ) -> tuple[str, WireRequest]:
        """What `exchange` wants."""
        if request_id and not self._id_given:
            wire = replace(wire, headers={**wire.headers, "X-Request-Id": request_id})
        return method, wire

    def stamps_taken(self) -> StampStats:
        """Nothing: how late aiohttp's parser, queue and task saw the bytes nobody knows."""
        return StampStats()

    async def warm(self, count: int) -> None:
        """Nothing: a session connects when it sends."""

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions:
            await session.close()

    def begin(
        self, payload: tuple[str, WireRequest], watch: Stopwatch, limit: float, asked: Asked
    ) -> StockExchange:
        """Start one exchange of at most `limit` seconds; `asked` hears of its end, once."""
        return StockExchange(asyncio.create_task(self.exchange(payload, watch, limit)), asked)

    async def exchange(
        self,
        payload: tuple[str, WireRequest],
        watch: Stopwatch,
        limit: float,
        *,
        fresh: bool = False,
    ) -> WireResponse:
        """One exchange of at most `limit` seconds, whatever its end."""
        response = WireResponse(trip=Trip())
        try:
            async with asyncio.timeout(limit):
                for session in self._sessions[1:] if fresh else self._sessions:
                    if not await self._again(session, payload, watch, response):
                        break
        except TimeoutError:
            response.broken, response.detail = "timed_out", f"no end within {limit:g} s"
        self.stamps.user += len(response.reads)
        return response

    async def _again(
        self,
        session: aiohttp.ClientSession,
        payload: tuple[str, WireRequest],
        watch: Stopwatch,
        response: WireResponse,
    ) -> bool:
        """Make one attempt; whether its connection, a kept one, closed before any answer."""
        connection = _Connection()
        response.broken = response.detail = None
        try:
            await self._attempt(session, payload, watch, (response, connection))
        except (aiohttp.ClientError, BackendError) as error:
            response.broken, response.detail = _broken(error)
        again = response.broken is not None and response.status is None and connection.reused
        if again and response.trip is not None:
            response.trip.retries += session is self._sessions[0]
        return again

    async def _attempt(
        self,
        session: aiohttp.ClientSession,
        payload: tuple[str, WireRequest],
        watch: Stopwatch,
        into: tuple[WireResponse, _Connection],
    ) -> None:
        response, connection = into
        method, wire = payload
        url = yarl.URL(self._address + wire.path, encoded=True)
        headers = {"Content-Type": "application/json", **wire.headers}
        body: Any = wire.body if len(wire.body) < _LARGE_BODY else io.BytesIO(wire.body)
        watch.sent()
        async with session.request(
            method,
            url,
            data=body if method == "POST" else None,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=connection,
        ) as answer:
            response.status, response.headers = answer.status, dict(answer.headers)
            response.reads = reads = []
            left = self.body_budget
            async for data in answer.content.iter_any():
                watch.mark()
                reads.append(data)
                left -= len(data)
                if left < 0:
                    answer.close()
                    raise BackendError("bad_stream", f"the body is over {self.body_budget} bytes")


class StockExchange:
    """One exchange on its way."""

    def __init__(self, task: asyncio.Task[WireResponse], asked: Asked) -> None:
        self._task, self._asked = task, asked
        task.add_done_callback(self._over)

    def cancel(self) -> None:
        """Abort it; nobody hears of it again."""
        self._task.cancel()

    def _over(self, task: asyncio.Task[WireResponse]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._asked.failed(error)
        else:
            self._asked.landed(task.result())


@dataclass(slots=True)
class _Connection:
    """Whether one exchange got a connection that had carried another."""

    reused: bool = False


async def _note_reuse(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    context.trace_request_ctx.reused = True


def _session(headers: Mapping[str, str], *, fresh: bool) -> aiohttp.ClientSession:
    reuse = aiohttp.TraceConfig()
    reuse.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=fresh),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        trace_configs=[reuse],
    )


def _broken(error: Exception) -> tuple[str, str]:
    """Outcome and reason of a failed exchange."""
    match error:
        case BackendError():
            return error.outcome, error.detail
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            return "unreachable", refusal(error)
        case aiohttp.ClientSSLError():
            return "unreachable", refusal(error)
        case aiohttp.ServerDisconnectedError():
            return "bad_stream", "the server closed the connection without an answer"
        case aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
            return "bad_stream", "the server broke the connection off"
    return "bad_stream", f"not HTTP: {error}"
