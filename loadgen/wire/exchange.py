"""Our client: pre-rendered bytes out on a kept connection, and what came back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from time import monotonic

import yarl

from contract.errors import BackendError
from loadgen.backends.base import Trip, WireRequest, WireResponse
from loadgen.stopwatch import Stopwatch
from loadgen.wire.answer import BODY_BUDGET, KEPT_BUDGET, Answer
from loadgen.wire.connect import Connector
from loadgen.wire.connection import Connection
from loadgen.wire.pool import Pool, Sweep
from loadgen.wire.stamps import StampStats, shift

HEADS_KEPT = 64


class WireClient:
    """Exchanges with one server. Instances live inside one event loop.

    `headers` go out with every request; `stamps` is "kernel" (where the system and the
    connection allow) or "user".
    """

    kept_budget = KEPT_BUDGET
    body_budget = BODY_BUDGET

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str],
        *,
        stamps: str = "kernel",
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        self._prefix = yarl.URL(address, encoded=True).raw_path.rstrip("/")
        self._headers = {"Host": _authority(address), "Accept": "*/*", **headers}
        self._pool = Pool(Connector(address, tls=tls, proxy=proxy), stamps)
        self._sweep = Sweep(_expire)
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = {}
        self._clock: Callable[[], float] | None = None
        self._shift = 0.0

    @property
    def stamps(self) -> StampStats:
        """Of all reads since the client was made."""
        return self._pool.stats

    def render(self, wire: WireRequest, method: str = "POST") -> bytes:
        """The bytes of one request; ValueError for a header that no request can carry."""
        key = method, wire.path, tuple(wire.headers.items())
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = self._head(wire, method)
        return b"%b%d\r\n\r\n%b" % (head, len(wire.body), wire.body)

    def _head(self, wire: WireRequest, method: str) -> bytes:
        """All of a request's head but the length of its body."""
        if len(self._heads) >= HEADS_KEPT:
            self._heads.clear()
        fields = {"Content-Type": "application/json"} if wire.body else {}
        for name, value in {**self._headers, **wire.headers}.items():
            fields = {n: v for n, v in fields.items() if n.lower() != name.lower()}
            fields[name] = value
        lines = [f"{method} {self._prefix}{wire.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        if any(set("\r\n\0") & set(line) for line in lines):
            raise ValueError("a header must be one line")
        return "\r\n".join([*lines, "Content-Length: "]).encode("latin-1")

    async def warm(self, count: int) -> None:
        """Connect beforehand; BackendError(`unreachable`)."""
        await self._pool.warm(count)

    async def exchange(
        self, payload: bytes, watch: Stopwatch, limit: float, *, fresh: bool = False
    ) -> WireResponse:
        """One exchange of at most `limit` seconds, whatever its end. Cancelling aborts it.

        With `fresh` it has a connection to itself.

        A kept connection that the server closed before any byte of an answer says nothing
        about this request (llama-server closes after every stream): it is sent once more, on a
        new connection that is not kept, with its clock running on.
        """
        deadline = monotonic() + limit
        retries = 0
        kept = None if fresh else self._pool.take()
        if kept is not None:
            answer = await self._attempt(kept, payload, watch, deadline)
            if not _says_nothing(kept):
                return self._ended(kept, answer, Trip(), limit)
            fresh, retries = True, 1
        trip = Trip(retries)
        try:
            async with asyncio.timeout(deadline - monotonic()):
                connection = await self._pool.connect()
        except TimeoutError:
            return WireResponse(broken="timed_out", detail=_no_end(limit), trip=trip)
        except BackendError as error:
            return WireResponse(broken=error.outcome, detail=error.detail, trip=trip)
        trip.connect = connection.seconds
        answer = await self._attempt(connection, payload, watch, deadline)
        if fresh:
            connection.abort()
        return self._ended(connection, answer, trip, limit)

    async def close(self) -> None:
        """Close every connection."""
        self._sweep.close()
        await self._pool.close()

    async def _attempt(
        self, connection: Connection, payload: bytes, watch: Stopwatch, deadline: float
    ) -> Answer:
        if watch.clock is not self._clock:
            self._clock, self._shift = watch.clock, shift(watch.clock)
        answer = Answer(self.kept_budget, self.body_budget)
        sent, done = connection.start(payload, watch.marks, self._shift, answer)
        watch.sent_by(sent + self._shift)
        self._sweep.add(connection, deadline)
        try:
            await done
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self._sweep.remove(connection)
        return answer

    def _ended(
        self, connection: Connection, answer: Answer, trip: Trip, limit: float
    ) -> WireResponse:
        self._pool.give(connection)
        trip.stamps = "kernel" if connection.stamped_by_kernel else "user"
        response = answer.response()
        response.trip = trip
        if connection.broken is not None:
            outcome, reason = connection.broken
            response.broken, response.detail = outcome, reason or _no_end(limit)
        return response


def _says_nothing(connection: Connection) -> bool:
    """Whether the server closed it before any byte of an answer."""
    broken = connection.broken
    return broken is not None and not connection.heard and broken[0] != "timed_out"


def _expire(connection: Connection) -> None:
    connection.stop("timed_out", "")


def _no_end(limit: float) -> str:
    return f"no end within {limit:g} s"


def _authority(address: str) -> str:
    url = yarl.URL(address, encoded=True)
    host = url.host_subcomponent or ""
    return host if url.is_default_port() else f"{host}:{url.port}"
