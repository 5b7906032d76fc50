"""Our client: pre-rendered bytes out on a kept connection, and what came back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Protocol

import yarl

from contract.errors import BackendError
from loadgen.backends.base import Awaiting, Trip, WireRequest, WireResponse
from loadgen.figures.stamp_stats import StampStats
from loadgen.stopwatch import Stopwatch
from loadgen.wire.answer import BODY_BUDGET, KEPT_BUDGET, Answer
from loadgen.wire.connect import Connector
from loadgen.wire.connection import Connection
from loadgen.wire.pool import Pool, Sweep
from loadgen.wire.stamps import shift
from loadgen.wire.turns import Turns

HEADS_KEPT = 64


class Asked(Protocol):
    """Who asked for an exchange: hears of its end once, unless it was cancelled."""

    def landed(self, response: WireResponse, /) -> None: ...

    def failed(self, error: BaseException, /) -> None: ...


# An exchange under way: its connection, what came so far (the instants are in the stopwatch), and
# when its time is over (monotonic).
Begun = tuple[Connection, list[bytes], float]


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
        self._id_given = any(name.lower() == "x-request-id" for name in headers)
        self.pool = Pool(Connector(address, tls=tls, proxy=proxy), stamps)
        self.sweep = Sweep(_expire)
        self.ended = Turns(Exchange.land)
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = {}
        self._clock: Callable[[], float] | None = None
        self._shift = 0.0

    @property
    def stamps(self) -> StampStats:
        """Of the reads since they were taken last."""
        return self.pool.stats

    def stamps_taken(self) -> StampStats:
        """Of the reads since the last time."""
        return self.pool.stats_taken()

    def render(self, wire: WireRequest, method: str = "POST", request_id: str = "") -> bytes:
        """The bytes of one request; ValueError for a header that no request can carry.

        A `request_id` goes out as X-Request-Id, unless the client's own headers hold one.
        """
        key = method, wire.path, tuple(wire.headers.items())
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = self._head(wire, method)
        named = b""
        if request_id and not self._id_given:
            named = b"X-Request-Id: %b\r\n" % request_id.encode("ascii")
        return b"%b%d\r\n%b\r\n%b" % (head, len(wire.body), named, wire.body)

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
        await self.pool.warm(count)

    def begin(self, payload: bytes, watch: Stopwatch, limit: float, asked: Asked) -> Exchange:
        """Start one exchange of at most `limit` seconds; `asked` hears of its end, once."""
        exchange = Exchange(self, payload, watch, limit, asked)
        exchange.start(self.pool.take())
        return exchange

    def resume(
        self, payload: bytes, watch: Stopwatch, limit: float, asked: Asked, begun: Begun
    ) -> Exchange:
        """Go on with an exchange that was begun elsewhere; `limit` seconds as from its start."""
        exchange = Exchange(self, payload, watch, limit, asked)
        exchange.adopt(begun)
        return exchange

    async def exchange(
        self, payload: bytes, watch: Stopwatch, limit: float, *, fresh: bool = False
    ) -> WireResponse:
        """One exchange awaited; cancelling aborts it. With `fresh` it has a connection to
        itself."""
        awaited = Awaiting[WireResponse]()
        exchange = Exchange(self, payload, watch, limit, awaited, fresh=fresh)
        exchange.start(None if fresh else self.pool.take())
        return await awaited.end(exchange.cancel)

    def shift(self, clock: Callable[[], float]) -> float:
        """Seconds from the monotonic clock to `clock`."""
        if clock is not self._clock:
            self._clock, self._shift = clock, shift(clock)
        return self._shift

    async def close(self) -> None:
        """Close every connection."""
        self.sweep.close()
        await self.pool.close()


class Exchange:
    """One exchange on its way: a request out, its answer in, a second attempt where one is due.

    A kept connection that the server closed before any byte of an answer says nothing about
    this request (llama-server closes after every stream): it is sent once more, on a new
    connection that is not kept, with its clock running on.
    """

    __slots__ = ("_answer", "_asked", "_broken", "_client", "_connecting", "_connection",
                 "_deadline", "_fresh", "_limit", "_payload", "_trip", "_watch")  # fmt: skip

    def __init__(
        self,
        client: WireClient,
        payload: bytes,
        watch: Stopwatch,
        limit: float,
        asked: Asked,
        fresh: bool = False,
    ) -> None:
        self._client = client
        self._payload = payload
        self._watch = watch
        self._limit = limit
        self._asked = asked
        self._fresh = fresh
        self._deadline = monotonic() + limit
        self._trip = Trip()
        self._answer: Answer | None = None
        self._broken: tuple[str, str] | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None

    def start(self, kept: Connection | None) -> None:
        """Send on the connection that is there, or open one first."""
        if kept is not None:
            self._send(kept)
            return
        self._connecting = asyncio.create_task(self._connect())
        self._connecting.add_done_callback(self._connected)

    def adopt(self, begun: Begun) -> None:
        """Go on where another stopped."""
        client, watch = self._client, self._watch
        connection, came, self._deadline = begun
        self._connection = connection
        self._answer = answer = Answer(client.kept_budget, client.body_budget)
        client.sweep.add(connection, self._deadline)
        moved = client.shift(watch.clock)
        connection.carry(answer, watch.marks, moved, self.over, came)

    def cancel(self) -> WireResponse | None:
        """Abort it, and give what came; nobody hears of it again."""
        if self._connecting is not None:
            self._connecting.cancel()
        if (connection := self._connection) is not None:
            self._trip.stamps = connection.stamper
            self._client.sweep.remove(connection)
            connection.abort()
        self._client.ended.drop(self)
        return None if self._answer is None else self._response()

    def over(self, connection: Connection) -> None:
        """The connection is through with it."""
        client, broken = self._client, connection.broken
        client.sweep.remove(connection)
        self._connection = None
        if broken is not None and self._again(connection, broken[0]):
            return
        if self._fresh:
            connection.abort()
        client.pool.give(connection)
        self._trip.stamps = connection.stamper
        self._broken = broken
        client.ended.take(self)

    def land(self) -> None:
        """Let who asked hear of it."""
        response = self._response()
        if (broken := self._broken) is not None:
            response.broken, response.detail = broken[0], broken[1] or _no_end(self._limit)
        self._asked.landed(response)

    def _response(self) -> WireResponse:
        response = WireResponse() if self._answer is None else self._answer.response()
        response.trip = self._trip
        return response

    def _send(self, connection: Connection) -> None:
        client, watch = self._client, self._watch
        self._connection = connection
        self._answer = answer = Answer(client.kept_budget, client.body_budget)
        moved = client.shift(watch.clock)
        sent = connection.start(self._payload, answer, watch.marks, moved, self.over)
        watch.sent_by(sent + moved)
        client.sweep.add(connection, self._deadline)

    def _again(self, connection: Connection, outcome: str) -> bool:
        """Send it once more where a kept connection said nothing at all."""
        used = self._fresh or self._trip.connect is not None
        if used or connection.heard or outcome == "timed_out":
            return False
        if connection.used:
            self._client.pool.closed_after_use()
        self._trip.retries, self._fresh = 1, True
        self.start(None)
        return True

    async def _connect(self) -> Connection:
        async with asyncio.timeout(self._deadline - monotonic()):
            return await self._client.pool.connect()

    def _connected(self, connecting: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if connecting.cancelled():
            return
        match connecting.exception():
            case None:
                connection = connecting.result()
                self._trip.connect = connection.seconds
                self._send(connection)
            case TimeoutError():
                self._unreached("timed_out", _no_end(self._limit))
            case BackendError() as error:
                self._unreached(error.outcome, error.detail)
            case error:
                self._asked.failed(error)

    def _unreached(self, outcome: str, reason: str) -> None:
        self._asked.landed(WireResponse(broken=outcome, detail=reason, trip=self._trip))


def _expire(connection: Connection) -> None:
    connection.stop("timed_out", "")


def _no_end(limit: float) -> str:
    return f"no end within {limit:g} s"


def _authority(address: str) -> str:
    url = yarl.URL(address, encoded=True)
    host = url.host_subcomponent or ""
    return host if url.is_default_port() else f"{host}:{url.port}"
