"""The seam between a server's protocol and its conduct: bodies and events here, time elsewhere."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadgen.fakes.slots import Visit
from loadgen.workload.words import WORDS

if TYPE_CHECKING:
    from loadgen.fakes.http import Call
    from loadgen.fakes.paces import Pace

DEFAULT_TOKENS = 16
SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole response."""

    status: int
    body: bytes
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def reply(status: int, document: Any, **headers: str) -> Reply:
    """A JSON response; underscores in header names stand for hyphens."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(document).encode(), JSON, fields)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the body of a request asks for.

    `prompt` in tokens, `tokens` the most it may make, `output` what it will make: fewer when the
    model stops by itself. `route` is the protocol's own name for the shape of the answer.
    """

    model: str
    prompt: Sequence[str]
    tokens: int
    output: int
    route: str
    stream: bool
    runner: str = ""
    keep_alive: float | None = None  # seconds; None: the server's own, negative: for ever
    reuse: bool = True  # take what the prefix cache holds
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One answer under way."""

    ask: Ask
    visit: Visit
    failure: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether the model ends it before the limit, with a token that has no text."""
        return self.ask.output < self.ask.tokens

    @property
    def ends(self) -> bool:
        """Whether the stream says how it ended."""
        return self.failure != "no_finish"

    def text(self, number: int) -> str:
        """The text of token `number`: a word after a space."""
        if self.stopped and number == self.ask.output - 1:
            return ""
        return f" {WORDS[self.token(number)]}"

    def token(self, number: int) -> int:
        """Its id."""
        return (self.visit.index + 7 * number) % len(WORDS)

    def texts(self, start: int = 0, stop: int | None = None) -> str:
        """The text of tokens [start, stop)."""
        return "".join(map(self.text, range(start, self.ask.output if stop is None else stop)))


class Front(ABC):
    """One protocol. Subclasses say what it understands and answers; they keep no time."""

    name = ""
    stream_kind = SSE
    headers: Mapping[str, str] = {}  # of every response
    head_first = True  # the head of a stream goes out before its first token
    closes_after_stream = False
    bounded_while_loading_only = False
    runner = ""  # what is loaded when the server starts loaded
    reasons = False  # whether replies of a chat may begin with reasoning
    reasoning = 0  # so many tokens of it

    @abstractmethod
    def page(self, call: Call, pace: Pace) -> Reply | None:
        """The answer to anything that generates nothing; None: there is no such page."""

    @abstractmethod
    def generates(self, call: Call) -> bool:
        """Whether this call asks for tokens."""

    @abstractmethod
    def ask(self, call: Call, pace: Pace) -> Ask | Reply:
        """What is asked for, or the answer to what generates nothing."""

    def stream_headers(self, job: Job) -> Mapping[str, str]:  # noqa: ARG002 - the seam's
        """What the head of a stream says besides."""
        return {}

    def opening(self, job: Job) -> bytes:  # noqa: ARG002 - the seam's
        """What goes out with the head of a stream."""
        return b""

    @abstractmethod
    def tokens(self, job: Job, start: int, stop: int) -> list[bytes]:
        """The events of tokens [start, stop) of a stream, none of them the last one."""

    @abstractmethod
    def ending(self, job: Job, start: int) -> list[bytes]:
        """The events of the tokens from `start` to the last one, and all that follows them."""

    @abstractmethod
    def whole(self, job: Job) -> Reply:
        """An answer that is not streamed."""

    @abstractmethod
    def died(self) -> list[bytes]:
        """What ends a stream when the engine fails half-way."""

    def garbage(self) -> list[bytes]:
        """What ends a stream that is not the protocol."""
        return [b"data: {not json\n\n"]

    @abstractmethod
    def refusal(self, why: str, ask: Ask) -> Reply:
        """The answer to one that is `busy`, `rate_limit` or `internal`."""


def event(document: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + compact(document) + b"\n\n"


def compact(document: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
