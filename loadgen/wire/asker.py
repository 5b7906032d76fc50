"""Who asked a server backend for an exchange: where its response lands, and what cancels it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from loadgen.backends.base import Landing, Request, WireResponse
from loadgen.stopwatch import Facts, Stopwatch


class Reads(Protocol):
    """Reads the facts of a response."""

    def facts(self, request: Request, response: WireResponse, watch: Stopwatch, /) -> Facts: ...


class Asker:
    """Reads the facts of one response for whom its request was begun."""

    __slots__ = ("_backend", "_exchange", "_landing", "_over", "_request", "_watch")

    def __init__(
        self, backend: Reads, request: Request, watch: Stopwatch, landing: Landing
    ) -> None:
        self._backend = backend
        self._request = request
        self._watch = watch
        self._landing = landing
        self._exchange: Any = None
        self._over = False

    def on(self, exchange: Any) -> Callable[[], Facts | None]:
        """What cancels the exchange, unless it is over."""
        if not self._over:
            self._exchange = exchange
        return self.cancel

    def cancel(self) -> Facts | None:
        """Abort the exchange; what came of its answer, where that is known."""
        exchange = self._end()
        response = None if exchange is None else exchange.cancel()
        if response is None:
            return None
        facts = self._backend.facts(self._request, response, self._watch)
        facts.outcome, facts.error = "cancelled", None
        return facts

    def _end(self) -> Any:
        """It is over: they let go of each other, so that nothing is left to collect."""
        exchange, self._exchange, self._over = self._exchange, None, True
        return exchange

    def landed(self, response: WireResponse) -> None:
        self._end()
        try:
            facts = self._backend.facts(self._request, response, self._watch)
        except BaseException as error:  # noqa: BLE001  # ours: goes to whoever asked
            self._landing.failed(error)
        else:
            self._landing.landed(facts)

    def failed(self, error: BaseException) -> None:
        self._end()
        self._landing.failed(error)
