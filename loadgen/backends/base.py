"""The seam of a backend: it is pushed a request, and pushes its marks into a stopwatch.

A server backend is a `Dialect`: it renders a request's bytes beforehand and reads facts from
the bytes kept afterwards, both pure. `loadgen.wire` performs the exchange and owns the stamps.
The in-process backend implements `Backend` itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from contract.records import StampSource
from loadgen.figures.stamp_stats import StampStats
from loadgen.stopwatch import Facts, Stopwatch

T = TypeVar("T")


class Tokenizer(Protocol):
    """Exact token counts for prompts."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Message(NamedTuple):
    """One part of a chat; `role` is the protocol's word for who said it."""

    role: str
    text: str


# Not frozen: one is made per request, and freezing triples what that costs.
@dataclass(slots=True)
class Request:
    """What one agent asks for: a prompt, and how many tokens to generate at most.

    `messages` are what a chat endpoint is sent; () stands for the prompt as one user message.
    `prompt` is all of them joined, for servers that complete. `wants_text` has the reply's text
    kept; `id` goes out with the request, the engine gives it.
    """

    prompt: str
    output_tokens: int
    seed: int = 0
    messages: tuple[Message, ...] = ()
    wants_text: bool = False
    id: str = ""

    @property
    def chat(self) -> tuple[Message, ...]:
        """The messages a chat endpoint is sent."""
        return self.messages or (Message("user", self.prompt),)


@dataclass(frozen=True, slots=True)
class Target:
    """What the preflight found: goes into the manifest. Unknown is None.

    Of several servers `addresses` are all, and `address` is None.
    """

    model: str
    models: tuple[str, ...] = ()
    version: str | None = None
    address: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    context_length: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Landing(Protocol):
    """Where an exchange ends: one of the two is called, once, unless it was cancelled before."""

    def landed(self, facts: Facts, /) -> None:
        """It is over, one way or another."""
        ...

    def failed(self, error: BaseException, /) -> None:
        """A bug of ours ended it."""
        ...


class Backend(Protocol):
    """What the engine drives. Instances live inside one event loop."""

    name: str

    async def open(self) -> Target:
        """Reach the server or load the model; TargetError says what to start."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that counts as the server does, when there is one."""
        ...

    async def warm(self, connections: int) -> None:
        """Have so many connections open before a stage's clock starts; BackendError if not."""
        ...

    def prepare(self, request: Request) -> Any:
        """All that can be done before a request is due; what `begin` takes."""
        ...

    def begin(
        self, prepared: Any, watch: Stopwatch, timeout: float, landing: Landing
    ) -> Callable[[], object]:
        """Start one exchange; failures are outcomes. Returns what cancels it."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Stamped(Protocol):
    """A backend that stamps bytes as it reads them, and tells how."""

    def stamps_taken(self) -> StampStats:
        """Who stamped the reads since the last time."""
        ...

    def late(self, seconds: float) -> None:
        """A timer was seen so late, and what is stamped by reading is no earlier."""
        ...


class Awaiting(Generic[T]):
    """Where an exchange ends that somebody awaits."""

    def __init__(self) -> None:
        self._end: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def landed(self, what: T) -> None:
        if not self._end.done():
            self._end.set_result(what)

    def failed(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    async def end(self, cancel: Callable[[], object]) -> T:
        """What landed; `cancel` is called when the waiting is cancelled."""
        try:
            return await self._end
        except asyncio.CancelledError:
            cancel()
            raise


async def performed(backend: Backend, request: Request, watch: Stopwatch, timeout: float) -> Facts:
    """One exchange awaited; cancelling aborts it."""
    awaiting = Awaiting[Facts]()
    return await awaiting.end(backend.begin(backend.prepare(request), watch, timeout, awaiting))


class Awaited:
    """`begin` of a backend whose exchanges are coroutines: a task each."""

    async def perform(self, request: Request, watch: Stopwatch, timeout: float) -> Facts:
        """One exchange, whatever its end: failures are outcomes. Cancelling it aborts it."""
        raise NotImplementedError

    def prepare(self, request: Request) -> Any:
        """Nothing can be done beforehand."""
        return request

    def begin(
        self, prepared: Any, watch: Stopwatch, timeout: float, landing: Landing
    ) -> Callable[[], object]:
        """Start one exchange; returns what cancels it."""

        def over(task: asyncio.Task[Facts]) -> None:
            if task.cancelled():
                return
            if (error := task.exception()) is not None:
                landing.failed(error)
            else:
                landing.landed(task.result())

        task = asyncio.create_task(self.perform(prepared, watch, timeout))
        task.add_done_callback(over)
        return task.cancel


@dataclass(frozen=True, slots=True)
class WireRequest:
    """The bytes of one HTTP exchange, rendered before its clock starts."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Raw(NamedTuple):
    """A complete chunked body as it came, its chunk framing included and found right.

    A dialect may count in it what needs no decoding; `reads` joined are `whole`.
    """

    whole: bytes
    reads: Sequence[bytes]


@dataclass(slots=True)
class WireResponse:
    """What came back: `reads[i]`, bytes of the body, arrived at the stopwatch's mark i.

    `broken` is the outcome when the exchange did not end by itself (`unreachable`, `timed_out`,
    `bad_stream`), with `detail` as its reason; otherwise None. Of a body over its budget whole
    events were dropped: `dropped[i]` of them ended with read i; `answered` is the read of the
    first of them that held more than reasoning.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reads: Sequence[bytes] = ()
    broken: str | None = None
    detail: str | None = None
    raw: Raw | None = None
    dropped: Mapping[int, int] = field(default_factory=dict)
    answered: int | None = None
    trip: Trip | None = None


@dataclass(slots=True)
class Trip:
    """How one exchange travelled: retries, seconds spent connecting (None on a connection that
    was there already), and who stamped its reads."""

    retries: int = 0
    connect: float | None = None
    stamps: StampSource = "user"


class Dialect(Protocol):
    """One server protocol, without clock or socket."""

    name: str

    def render(self, request: Request, model: str) -> WireRequest: ...

    def read(self, response: WireResponse) -> Facts: ...

    def text(self, response: WireResponse) -> str | None:
        """What the server answered, reasoning left out; None where that cannot be told."""
        ...
