"""The one wire client: it performs every HTTP exchange and owns the stamps.

One stamp per read, taken before anything else; nothing is decoded until the exchange is over.
Imported by the run command only, because aiohttp is heavy.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson
import yarl

from contract.commandline import VERSION
from contract.errors import BackendError, ConfigError, TargetError
from loadgen.backends.base import (
    Dialect,
    Request,
    Target,
    Tokenizer,
    WireRequest,
    WireResponse,
)
from loadgen.preflight import ModelFacts, Survey, absent, only_model
from loadgen.stopwatch import Facts, Stopwatch

BODY_BUDGET = 64 * 2**20  # bytes kept of one response
PAGE_TIMEOUT = 10.0  # seconds for one page of the preflight
PROBE_TIMEOUT = 300.0  # seconds for the one-token probe: it may load the model
KEY_VARIABLES = ("LOADSTONE_API_KEY", "OPENAI_API_KEY")
_LARGE_BODY = 2**20  # bytes from which aiohttp wants a file


class ServerBackend:
    """A server behind HTTP, spoken to in one dialect. Implements `Backend`.

    The API key comes from the environment (KEY_VARIABLES, the first that is set), and stands in
    no record, message or manifest. `start` completes "start … there" in the line that says the
    server is not running.
    """

    body_budget = BODY_BUDGET

    def __init__(
        self,
        dialect: Dialect,
        base_url: str,
        model: str | None = None,
        *,
        start: str = "the server",
        survey: Survey | None = None,
    ) -> None:
        self.name = dialect.name
        self.dialect = dialect
        self.address = _address(base_url)
        self._model = model
        self._start = start
        self._survey = survey or Survey()
        self._key = _api_key(os.environ)
        self._sessions: tuple[aiohttp.ClientSession, ...] = ()

    async def open(self) -> Target:
        """Find the server, its model and its version.

        TargetError in one line: no server there, no or several models without a choice, or a
        model that a one-token probe does not find (a list of models alone decides nothing).
        """
        self.connect()
        try:
            models = await self._models()
            names = [model.name for model in models]
            chosen = self._model or only_model(names, self.address)
            notes = {} if chosen in names else await self._probe(chosen, names)
            version = await self._version()
        except BaseException:
            await self.close()
            raise
        self._model = chosen
        facts = next((m for m in models if m.name == chosen), ModelFacts(chosen))
        return Target(
            model=chosen,
            models=tuple(names),
            version=version,
            address=self.address,
            quantization=facts.quantization,
            parameters=facts.parameters,
            weight_bytes=facts.weight_bytes,
            context_length=facts.context_length,
            notes=notes,
        )

    def tokenizer(self) -> Tokenizer | None:
        """None: the server counts, in its usage."""
        return None

    async def perform(self, request: Request, watch: Stopwatch, timeout: float) -> Facts:
        """One exchange of at most `timeout` seconds; what arrived before its end is still read."""
        assert self._model is not None, "open() finds the model out"
        return await self._perform(self.dialect.render(request, self._model), watch, timeout)

    async def close(self) -> None:
        """Close every connection."""
        sessions, self._sessions = self._sessions, ()
        for session in sessions:
            await session.close()

    def connect(self) -> None:
        """Get ready without a preflight; the model given is believed. Needs a running loop."""
        # The second session opens a connection for every exchange: the retry's.
        self._sessions = tuple(self._session(fresh=fresh) for fresh in (False, True))

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"loadstone/{VERSION}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
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

    async def _perform(self, wire: WireRequest, watch: Stopwatch, limit: float) -> Facts:
        response = WireResponse()
        try:
            async with asyncio.timeout(limit):
                await self._exchange(wire, watch, response)
        except TimeoutError:
            response.broken, response.detail = "timed_out", f"no end within {limit:g} s"
        facts = self.dialect.read(response)
        return replace(facts, error=self._scrub(facts.error)) if facts.error else facts

    async def _exchange(self, wire: WireRequest, watch: Stopwatch, response: WireResponse) -> None:
        """Send, read to the end, and leave in `response` how it ended.

        A kept-alive connection that the server closed before any answer says nothing about
        this request (llama-server closes after every stream): it is sent once more, on a new
        connection, with its clock running on.
        """
        for session in self._sessions:
            connection = _Connection()
            response.broken = response.detail = None
            try:
                await self._attempt(session, wire, watch, (response, connection))
            except (aiohttp.ClientError, BackendError) as error:
                response.broken, response.detail = _broken(error)
            if response.broken is None or response.status is not None or not connection.reused:
                return

    async def _attempt(
        self,
        session: aiohttp.ClientSession,
        wire: WireRequest,
        watch: Stopwatch,
        into: tuple[WireResponse, _Connection],
    ) -> None:
        response, connection = into
        url = yarl.URL(self.address + wire.path, encoded=True)
        headers = {"Content-Type": "application/json", **wire.headers}
        body = wire.body if len(wire.body) < _LARGE_BODY else io.BytesIO(wire.body)
        watch.sent()
        async with session.post(
            url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=connection
        ) as answer:
            response.status, response.headers = answer.status, dict(answer.headers)
            left = self.body_budget
            async for data in answer.content.iter_any():
                watch.mark()
                response.reads.append(data)
                left -= len(data)
                if left < 0:
                    answer.close()
                    raise BackendError("bad_stream", f"the body is over {self.body_budget} bytes")

    async def _models(self) -> list[ModelFacts]:
        """The models listed; none when the server keeps no list (some answer 404 or 500)."""
        status, page = await self._page(self._survey.models_path)
        if status in (401, 403):
            raise TargetError(
                f"{self.address} wants an API key (HTTP {status}): set {KEY_VARIABLES[0]}"
            )
        return self._survey.models(page) if status == 200 else []

    async def _version(self) -> str | None:
        if self._survey.version_path is None:
            return None
        try:
            status, page = await self._page(self._survey.version_path)
        except TargetError:
            return None  # it answered the page before: a version is only nice to know
        return self._survey.version(page) if status == 200 else None

    async def _page(self, path: str) -> tuple[int, Any]:
        """Status and JSON document of one page; a page that is no JSON is None."""
        url = yarl.URL(self.address + path, encoded=True)
        context = _Connection()
        try:
            async with (
                asyncio.timeout(PAGE_TIMEOUT),
                self._sessions[1].get(
                    url, allow_redirects=False, trace_request_ctx=context
                ) as answer,
            ):
                return answer.status, _json(await answer.read())
        except TimeoutError:
            raise self._not_there(f"no answer within {PAGE_TIMEOUT:g} s") from None
        except aiohttp.ClientError as error:
            raise self._not_there(_broken(error)[1]) from error

    async def _probe(self, model: str, names: list[str]) -> dict[str, Any]:
        """Ask an unlisted model for one token; returns notes, or raises TargetError.

        A server too busy to answer has not said that the model is absent.
        """
        wire = self.dialect.render(Request(prompt="hi", output_tokens=1), model)
        facts = await self._perform(wire, Stopwatch(time.monotonic, due=0.0), PROBE_TIMEOUT)
        reason = facts.error or facts.outcome
        if facts.outcome in ("ok", "truncated"):
            return {"probe": "the model is not listed, and answers"}
        if facts.status in (429, 503):
            return {"probe": f"the model is not listed, and the server is busy: {reason}"}
        if facts.outcome in ("unreachable", "timed_out"):
            raise self._not_there(f"a one-token probe of model '{model}': {reason}")
        raise absent(model, names, self.address, reason)

    def _not_there(self, reason: str) -> TargetError:
        return TargetError(
            f"no server at {self.address} ({self._scrub(reason)}): "
            f"start {self._start} there or give --base-url"
        )

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "[API key]") if self._key else text


@dataclass(slots=True)
class _Connection:
    """Whether one exchange got a connection that had carried another."""

    reused: bool = False


async def _note_reuse(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    context.trace_request_ctx.reused = True


def _broken(error: Exception) -> tuple[str, str]:
    """Outcome and reason of a failed exchange: the one place for foreign exceptions."""
    match error:
        case BackendError():
            ending = error.outcome, error.detail
        case aiohttp.ClientConnectorDNSError():
            ending = "unreachable", "the name does not resolve"
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            ending = "unreachable", f"TLS: {error}"
        case aiohttp.ClientConnectorError():
            ending = "unreachable", _refusal_of(error.os_error)
        case aiohttp.ServerDisconnectedError():
            ending = "bad_stream", "the server closed the connection without an answer"
        case aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
            ending = "bad_stream", "the server broke the connection off"
        case _:
            ending = "bad_stream", f"not HTTP: {error}"
    return ending


def _refusal_of(error: OSError) -> str:
    refused = isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED
    return "connection refused" if refused else str(error)


def _address(base_url: str) -> str:
    """The address without a trailing slash or `/v1`; ConfigError when it is no http(s) URL."""
    allowed = "allowed: http://HOST:PORT or https://HOST:PORT"
    try:
        url = yarl.URL(base_url.strip())
        port = url.port  # parsed here: a wrong one raises
    except ValueError as error:
        raise ConfigError(f"--base-url '{base_url}' is not a URL; {allowed}") from error
    if url.user is not None or url.password is not None:
        raise ConfigError(f"--base-url must not hold a user or password; {allowed}")
    if url.scheme not in ("http", "https") or not url.host or not port:
        raise ConfigError(f"--base-url '{base_url}' is not an HTTP address; {allowed}")
    if url.query_string or url.fragment:
        raise ConfigError(f"--base-url '{base_url}' has a query or fragment; {allowed}")
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")


def _api_key(environment: Mapping[str, str]) -> str | None:
    """The first key that is set; ConfigError, without its text, when it cannot be a header."""
    for name in KEY_VARIABLES:
        if key := environment.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(f"{name} holds characters that no HTTP header can carry")
            return key
    return None


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
