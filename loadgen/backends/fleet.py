"""Several servers as one backend: each request goes to one of them, chosen as it is sent.

All serve the same model over the same protocol. Which one took a request stands in its record,
as the place of its address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from contract.errors import ConfigError, TargetError
from loadgen.backends.base import Backend, Landing, Request, Target, Tokenizer, WireRequest
from loadgen.figures.stamp_stats import StampStats, summed
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.wire import ServerBackend

# From the requests in flight at each address to the place of the next.
Route = Callable[[Sequence[int]], int]
# So long a request that reached nobody counts as in flight: a server that refuses at once would
# look idle otherwise, and draw every request.
SHUNNED_SECONDS = 1.0
# What a warning is due for where servers differ in it.
WEIGHTY = ("version", "quantization", "parameters", "weight_bytes", "context_length")


def round_robin() -> Route:
    """One after the other, whatever they do."""
    turns = count()
    return lambda busy: next(turns) % len(busy)


def least_busy() -> Route:
    """Where the fewest of our own requests are in flight; among equals the first."""
    return lambda busy: busy.index(min(busy))


ROUTES: dict[str, Callable[[], Route]] = {"round-robin": round_robin, "least-busy": least_busy}
CUSTOMARY = "round-robin"


class Fleet:
    """The servers behind several addresses. Implements `Backend`.

    One that is down does not stop the others: what is sent there ends `unreachable`.
    """

    def __init__(self, backends: Sequence[ServerBackend], route: str = CUSTOMARY) -> None:
        """`route` is a name of ROUTES. ConfigError when two have one address."""
        _distinct([backend.address for backend in backends])
        self.name = backends[0].name
        self.backends = tuple(backends)
        self.route = route
        self._next = ROUTES[route]()
        self._busy = [0] * len(backends)

    async def open(self) -> Target:
        """Reach all of them; TargetError names those that are not there or lack the model."""
        found = await opened(self.backends)
        targets = [target for target in found if isinstance(target, Target)]
        if len(targets) < len(found):
            await self.close()
            raise TargetError("; ".join(str(e) for e in found if isinstance(e, TargetError)))
        united = alike(targets)
        return replace(united, notes={"route": self.route, **united.notes})

    def tokenizer(self) -> Tokenizer | None:
        """None: the servers count."""
        return None

    async def warm(self, connections: int) -> None:
        """Share the connections out; BackendError where a server is away, once all were tried."""
        each = -(-connections // len(self.backends))
        ended = await asyncio.gather(
            *(backend.warm(each) for backend in self.backends), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error

    def prepare(self, request: Request) -> Rendered:
        """What is the same whichever server will get it."""
        return Rendered(request, self.backends[0].rendered(request))

    def begin(
        self, prepared: Rendered, watch: Stopwatch, timeout: float, landing: Landing
    ) -> Callable[[], object]:
        """Choose a server and start one exchange with it; returns what cancels it."""
        watch.address = place = self._next(self._busy)
        self._busy[place] += 1
        backend = self.backends[place]
        part = _Part(self._busy, place, landing)
        part.abort = backend.begin(backend.framed(*prepared), watch, timeout, part)
        return part.cancel

    @property
    def stamps(self) -> StampStats:
        """Who stamped the reads since they were taken last, over all connections."""
        return summed(backend.stamps for backend in self.backends)

    def stamps_taken(self) -> StampStats:
        """Who stamped the reads since the last time, over all connections."""
        return summed(backend.stamps_taken() for backend in self.backends)

    def late(self, seconds: float) -> None:
        """A timer was seen so late, and what is stamped by reading is no earlier."""
        for backend in self.backends:
            backend.late(seconds)

    async def close(self) -> None:
        """Close every connection to all of them."""
        for backend in self.backends:
            await backend.close()


class Rendered(NamedTuple):
    """A request and all of its bytes that do not depend on the server."""

    request: Request
    wire: WireRequest


class _Part:
    """One request at the server it was sent to. Implements `Landing`."""

    __slots__ = ("_busy", "_landing", "_over", "_place", "abort")

    def __init__(self, busy: list[int], place: int, landing: Landing) -> None:
        self._busy = busy
        self._place = place
        self._landing = landing
        self._over = False
        self.abort: Callable[[], object] = _nothing

    def landed(self, facts: Facts) -> None:
        if facts.outcome == "unreachable":
            asyncio.get_running_loop().call_later(SHUNNED_SECONDS, self._leave)
        else:
            self._leave()
        self._landing.landed(facts)

    def failed(self, error: BaseException) -> None:
        self._leave()
        self._landing.failed(error)

    def cancel(self) -> object:
        """Nobody hears of it again."""
        self._leave()
        return self.abort()

    def _leave(self) -> None:
        if not self._over:
            self._over = True
            self._busy[self._place] -= 1


def _distinct(addresses: Sequence[str]) -> None:
    twice = [address for address in addresses if addresses.count(address) > 1]
    if twice:
        raise ConfigError(f"--base-url: {twice[0]} is given twice, allowed: each server once")


def _nothing() -> None:
    """What aborts a request that has not begun."""


def servers(backend: Backend) -> tuple[ServerBackend, ...]:
    """The servers behind a backend: several, one, or none where the model is in this process."""
    if isinstance(backend, Fleet):
        return backend.backends
    return (backend,) if isinstance(backend, ServerBackend) else ()


def join(backend: Backend, target: Target) -> None:
    """Have the servers behind a backend ready for what another process found."""
    differ = target.notes.get("differ", {})
    for place, server in enumerate(servers(backend)):
        own = {name: values[place] for name, values in differ.items()}
        server.join(replace(target, notes={**target.notes, **own}))


async def opened(backends: Sequence[ServerBackend]) -> list[Target | TargetError]:
    """What each preflight found. Where no model was asked for, the first server's only one is
    asked of all."""
    first = await _target(backends[0])
    if isinstance(first, Target):
        for other in backends[1:]:
            other.expect(first.model)
    return [first, *await asyncio.gather(*map(_target, backends[1:]))]


async def _target(backend: ServerBackend) -> Target | TargetError:
    try:
        return await backend.open()
    except TargetError as error:
        return error


def alike(targets: Sequence[Target]) -> Target:
    """What is true of all of them; what is not is unknown, and stands by address in the note
    `differ`."""
    rows = [_facts(target) for target in targets]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    differ = {name: values for name, values in columns.items() if _several(values)}
    same = {name: values[0] for name, values in columns.items() if name not in differ}
    notes = {name: value for name, value in same.items() if name not in WEIGHTY}
    return Target(
        model=targets[0].model,
        models=tuple(m for m in targets[0].models if all(m in t.models for t in targets)),
        addresses=tuple(str(target.address) for target in targets),
        warnings=tuple(_warning(name, differ[name]) for name in WEIGHTY if name in differ),
        notes={**notes, "differ": differ} if differ else notes,
        **{name: same.get(name) for name in WEIGHTY},
    )


def _facts(target: Target) -> dict[str, Any]:
    return {**{name: getattr(target, name) for name in WEIGHTY}, **target.notes}


def _several(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _warning(name: str, values: Sequence[Any]) -> str:
    shown = ", ".join("unknown" if value is None else str(value) for value in values)
    return f"the servers differ in {name.replace('_', ' ')}: {shown}"
