"""The seam of a backend: it is pushed a request, and pushes its marks into a stopwatch.

A server backend is a `Dialect`: it renders a request's bytes beforehand and reads facts from
the bytes kept afterwards, both pure. `loadgen.wire` performs the exchange and owns the stamps.
The in-process backend implements `Backend` itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from contract.records import StampSource
from loadgen.stopwatch import Facts, Stopwatch


class Tokenizer(Protocol):
    """Exact token counts for prompts."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What one agent asks for: a prompt, and how many tokens to generate at most."""

    prompt: str
    output_tokens: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """What the preflight found: goes into the manifest. Unknown is None."""

    model: str
    models: tuple[str, ...] = ()
    version: str | None = None
    address: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    context_length: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)


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

    async def perform(self, request: Request, watch: Stopwatch, timeout: float) -> Facts:
        """One exchange, whatever its end: failures are outcomes. Cancelling it aborts it."""
        ...

    async def close(self) -> None: ...


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
    events were dropped: `dropped[i]` of them ended with read i.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reads: Sequence[bytes] = ()
    broken: str | None = None
    detail: str | None = None
    raw: Raw | None = None
    dropped: Mapping[int, int] = field(default_factory=dict)
    trip: Trip | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with all that could be done before its clock starts; a backend makes it, and
    takes it in place of the request."""

    request: Request
    payload: Any


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
