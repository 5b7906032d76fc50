"""A server behind HTTP as a backend: one dialect, one client, a preflight."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson
import yarl

from contract.commandline import VERSION
from contract.errors import ConfigError, TargetError
from loadgen.backends.base import (
    Dialect,
    Landing,
    Request,
    Target,
    Tokenizer,
    WireRequest,
    WireResponse,
    performed,
)
from loadgen.backends.preflight import ModelFacts, Survey, absent, only_model
from loadgen.figures.stamp_stats import StampStats
from loadgen.stopwatch import Facts, PerMark, Stopwatch
from loadgen.wire.answer import BODY_BUDGET, KEPT_BUDGET
from loadgen.wire.asker import Asker
from loadgen.wire.exchange import Begun, WireClient
from loadgen.wire.secrets import Secrets

if TYPE_CHECKING:
    from loadgen.engine import StageRun
    from loadgen.lane.core import Lane

PAGE_TIMEOUT = 10.0  # seconds for one page of the preflight
PROBE_TIMEOUT = 300.0  # seconds for the one-token probe: it may load the model
KEY_VARIABLES = ("LOADSTONE_API_KEY", "OPENAI_API_KEY")


@dataclass(frozen=True, slots=True)
class WireOptions:
    """How requests travel.

    `client` "general" is ours without its compiled lane, "aiohttp" the stock session, both to hold
    ours against. `stamps` "user" leaves the kernel's receive stamps alone. `headers` go out with
    every request; those named in `secret` hold what nobody may be told. `proxy`,
    `http://HOST:PORT`, is asked for a tunnel to an https address.
    """

    client: Literal["wire", "general", "aiohttp"] = "wire"
    stamps: Literal["kernel", "user"] = "kernel"
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()
    proxy: str | None = None
    tls: ssl.SSLContext | None = None
    body_budget: int = BODY_BUDGET  # bytes of one response
    kept_budget: int = KEPT_BUDGET  # bytes kept of one event stream


class ServerBackend:
    """A server behind HTTP, spoken to in one dialect. Implements `Backend`.

    The API key comes from the environment (KEY_VARIABLES, the first that is set), and stands in
    no record, message or manifest. `start` completes "start … there" in the line that says the
    server is not running.
    """

    def __init__(
        self,
        dialect: Dialect,
        base_url: str,
        model: str | None = None,
        *,
        start: str = "the server",
        survey: Survey | None = None,
        options: WireOptions | None = None,
    ) -> None:
        self.name = dialect.name
        self.dialect = dialect
        self.address = _address(base_url)
        self._model = model
        self._start = start
        self._survey = survey or Survey()
        self._key = _api_key(os.environ)
        self._options = options or WireOptions()
        headers = self._options.headers
        named = {name: headers[name] for name in self._options.secret}
        self._secrets = Secrets({"API key": self._key, **named})
        self._client: Any = None

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

    def expect(self, model: str) -> None:
        """Ask for this model where none was given; before `open`."""
        self._model = self._model or model

    def tokenizer(self) -> Tokenizer | None:
        """None: the server counts, in its usage."""
        return None

    def prepare(self, request: Request) -> Prepared:
        """Its bytes, rendered before it is due."""
        return self.framed(request, self.rendered(request))

    def rendered(self, request: Request) -> WireRequest:
        """As any server of this protocol and model is asked for it."""
        assert self._model is not None, "open() finds the model out"
        return self.dialect.render(request, self._model)

    def framed(self, request: Request, wire: WireRequest) -> Prepared:
        """Its bytes as they go out to this server."""
        return Prepared(request, self._client.render(wire, request_id=request.id))

    def begin(
        self, prepared: Prepared, watch: Stopwatch, timeout: float, landing: Landing
    ) -> Callable[[], object]:
        """Start one exchange of at most `timeout` seconds; what arrived before its end is read."""
        client = self._client
        asked = Asker(self, prepared.request, watch, landing)
        return asked.on(client.begin(prepared.payload, watch, timeout, asked))

    def resume(
        self, prepared: Prepared, watch: Stopwatch, timeout: float, landing: Landing, begun: Begun
    ) -> Callable[[], object]:
        """Go on with an exchange of it that was begun elsewhere."""
        asked = Asker(self, prepared.request, watch, landing)
        return asked.on(self._client.resume(prepared.payload, watch, timeout, asked, begun))

    def lane(self, stage: StageRun) -> Lane | None:
        """The short way for the requests of a stage, None where they need the general one."""
        from loadgen.lane.entry import lane_for

        return (
            lane_for(stage, self.dialect, self._client) if self._options.client == "wire" else None
        )

    async def perform(self, request: Request, watch: Stopwatch, timeout: float) -> Facts:
        """One exchange awaited; cancelling aborts it."""
        return await performed(self, request, watch, timeout)

    def facts(self, request: Request, response: WireResponse, _watch: Stopwatch) -> Facts:
        """What an exchange came to."""
        facts = self.dialect.read(response)
        if request.wants_text:
            facts.text = self.dialect.text(response)
        if response.dropped:
            facts.content = _with_dropped(facts, response)
            if facts.answer is not None and response.answered is not None:
                facts.answer = min(facts.answer, response.answered)
        if response.trip is not None:
            facts.retries, facts.connect = response.trip.retries, response.trip.connect
            facts.stamps = response.trip.stamps
        if self._secrets:
            self._hide(facts, response)
        return facts

    async def warm(self, connections: int) -> None:
        """Connect beforehand; the first request finds out what is wrong with the server."""
        await self._client.warm(connections)

    @property
    def stamps(self) -> StampStats:
        """Who stamped the reads since they were taken last."""
        return self._client.stamps if self._client is not None else StampStats()

    def stamps_taken(self) -> StampStats:
        """Who stamped the reads since the last time."""
        return self._client.stamps_taken() if self._client is not None else StampStats()

    def late(self, seconds: float) -> None:
        """A timer was seen so late, and what is stamped by reading is no earlier."""
        self.stamps.late(seconds)

    @property
    def ready_path(self) -> str:
        """The page that answers once the server takes requests."""
        return self._survey.ready_path or self._survey.models_path

    async def close(self) -> None:
        """Close every connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def join(self, target: Target) -> None:
        """Get ready for what another process found. Needs a running loop."""
        self._model = target.model
        self.connect()

    def answered(self, outcome: str) -> None:
        """How a request to this server ended; nothing follows from it here."""

    def connect(self) -> None:
        """Get ready without a preflight; the model given is believed. Needs a running loop."""
        headers = {"Accept-Encoding": "identity", "User-Agent": f"loadstone/{VERSION}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        options = self._options
        headers |= options.headers
        if options.client == "aiohttp":
            from loadgen.wire.stock import StockClient

            self._client = StockClient(self.address, headers)
        else:
            self._client = WireClient(
                self.address,
                headers,
                stamps=options.stamps,
                tls=options.tls,
                proxy=options.proxy,
            )
        self._client.body_budget = options.body_budget
        self._client.kept_budget = options.kept_budget

    async def _models(self) -> list[ModelFacts]:
        """The models listed; none when the server keeps no list (some answer 404 or 500)."""
        status, page = await self.fetch(self._survey.models_path)
        if status in (401, 403):
            raise TargetError(
                f"{self.address} wants an API key (HTTP {status}): set {KEY_VARIABLES[0]}"
            )
        return self._survey.models(page) if status == 200 else []

    async def _version(self) -> str | None:
        if self._survey.version_path is None:
            return None
        try:
            status, page = await self.fetch(self._survey.version_path)
        except TargetError:
            return None  # it answered the page before: a version is only nice to know
        return self._survey.version(page) if status == 200 else None

    async def fetch(
        self, path: str, document: Any = None, timeout: float = PAGE_TIMEOUT
    ) -> tuple[int, Any]:
        """Status and JSON document of one page, asked by POST when there is a document to send;
        a page that is no JSON is None. TargetError when nothing answers."""
        wire = WireRequest(path, b"" if document is None else orjson.dumps(document))
        payload = self._client.render(wire, "GET" if document is None else "POST")
        watch = Stopwatch(time.monotonic, due=0.0)
        answer: WireResponse = await self._client.exchange(payload, watch, timeout, fresh=True)
        if answer.status is None or answer.broken:
            silent = answer.broken == "timed_out"
            reason = f"no answer within {timeout:g} s" if silent else answer.detail
            raise self._not_there(reason or "no answer")
        return answer.status, _json(self._secrets.hide_in(b"".join(answer.reads)))

    async def _probe(self, model: str, names: list[str]) -> dict[str, Any]:
        """Ask an unlisted model for one token; returns notes, or raises TargetError.

        A server too busy to answer has not said that the model is absent.
        """
        request = Request(prompt="hi", output_tokens=1)
        payload = self._client.render(self.dialect.render(request, model))
        watch = Stopwatch(time.monotonic, due=0.0)
        response = await self._client.exchange(payload, watch, PROBE_TIMEOUT)
        facts = ServerBackend.facts(self, request, response, watch)
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
            f"no server at {self.address} ({self._secrets.hide(reason)}): "
            f"start {self._start} there or give --base-url"
        )

    def _hide(self, facts: Facts, response: WireResponse) -> None:
        """Take secrets out of what the server said back. An error may be an excerpt that cuts one
        in two, so it is made again from a body without them."""
        if facts.text:
            facts.text = self._secrets.hide(facts.text)
        if not facts.error:
            return
        body = b"".join(response.reads)
        hidden = self._secrets.hide_in(body)
        if hidden != body:
            clean = replace(response, reads=[hidden], raw=None)
            facts.error = self.dialect.read(clean).error or facts.error
        facts.error = self._secrets.hide(facts.error)


class Prepared(NamedTuple):
    """A request and its bytes."""

    request: Request
    payload: Any


def _with_dropped(facts: Facts, response: WireResponse) -> PerMark:
    """The content read, and the events dropped unread, which all count as content."""
    counts = [0] * len(response.reads)
    for mark in facts.content or ():
        counts[mark] += 1
    for mark, count in response.dropped.items():
        counts[mark] += count
    return PerMark(counts)


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
