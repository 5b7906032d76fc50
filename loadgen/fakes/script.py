"""How a scripted server behaves: its timing, its failures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from contract.errors import ConfigError, nearest

# What a request can be made to suffer, by its index in order of arrival.
FAILURES = {
    "error_event": "an error event half-way, then [DONE]",
    "cut": "the connection closes half-way",
    "reset": "the connection is reset half-way",
    "stall": "half-way nothing comes any more, until the client leaves",
    "no_finish": "no finish reason, though [DONE] comes",
    "no_done": "a finish reason, but no [DONE]",
    "not_json": "an event half-way that is not JSON",
    "drop": "the connection closes before any byte",
    "html": "200 with a web page",
    "redirect": "307 to another address",
    "busy": "503 with Retry-After",
    "rate_limit": "429",
    "internal": "500",
}
HALF_WAY = ("error_event", "cut", "reset", "stall", "not_json")
REFUSALS = ("busy", "rate_limit", "internal")
AT_ONCE = ("drop", "html", "redirect", *REFUSALS)


def explained() -> str:
    """The failures, one a line, for a help text."""
    return "failures:\n" + "\n".join(f"  {name:12} {says}" for name, says in FAILURES.items())


@dataclass(frozen=True, slots=True)
class Script:
    """How the server behaves.

    A request of n tokens holds its slot for `prefill_seconds` + n × `token_seconds`, or for
    `service_seconds` whatever n is (a fifth of it prefill), times 1 + `jitter` × u with u
    uniform in [-1, 1), seeded per request. With `close_after_stream` connections are closed
    after each stream without being announced. `queue_limit` waiting requests get 503s.
    """

    slots: int = 1
    service_seconds: float | None = None
    prefill_seconds: float = 0.0
    token_seconds: float = 0.0
    tokens_per_chunk: int = 1
    jitter: float = 0.0
    seed: int = 0
    models: tuple[str, ...] = ("tiny",)
    lists_models: bool = True
    usage: bool = True
    metrics: bool = False
    queue_limit: int | None = None
    close_after_stream: bool = False
    split_bytes: bool = False
    failures: Mapping[int, str] = field(default_factory=dict)
    always: str | None = None  # a failure for every request not named in `failures`

    def failure(self, index: int) -> str | None:
        """What request `index` suffers."""
        return self.failures.get(index, self.always)

    def service(self, index: int, tokens: int) -> tuple[float, float]:
        """Seconds until the first token and until the last one of request `index`."""
        first, last = self.prefill_seconds, self.prefill_seconds + tokens * self.token_seconds
        if self.service_seconds is not None:
            first, last = self.service_seconds / 5, self.service_seconds
        stretch = 1.0
        if self.jitter:
            import random

            stretch += self.jitter * random.Random(f"{self.seed}/{index}").uniform(-1, 1)
        return (last if tokens <= self.tokens_per_chunk else first) * stretch, last * stretch


def failing(texts: Sequence[str]) -> Script:
    """The script of `INDEX=FAILURE` texts, `all` for an INDEX; ConfigError for an unknown one."""
    given = dict(map(_failure, texts))
    always = given.pop("all", None)
    return Script(failures={int(index): name for index, name in given.items()}, always=always)


def _failure(text: str) -> tuple[str, str]:
    index, _, failure = text.partition("=")
    if index != "all" and not (index.isascii() and index.isdigit()):
        raise ConfigError(f"--fail '{text}': INDEX is a request's number from 0, or 'all'")
    if failure not in FAILURES:
        names = ", ".join(FAILURES)
        raise ConfigError(f"--fail '{text}'{nearest(failure, FAILURES)}; allowed: {names}")
    return index, failure
