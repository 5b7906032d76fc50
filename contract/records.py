"""The shapes that travel between the programs: one request, one stage, one run.

A record is one flat JSON object on one line of `requests.jsonl`. Instants are seconds since
the run's epoch (a monotonic clock; the manifest holds `epoch_unix`). Missing is None, never
0 or -1. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, Self

from contract.order import flaw
from contract.shape import MOST, AtLeast, OneOf, conform
from contract.words import number_of

# History of the schema. Every version stays readable; tests/golden/runs holds a run of each.
#   1  2026-11-20  first version
#   2  2026-11-20  records: retries, connect, stamps, counted_chunks; stage keys: request_rate
#   3  2026-11-21  records: asked_tokens, first_answer, address; stages: generator
SCHEMA_VERSION = 3

OUTCOMES = (
    "ok",  # complete: a finish reason was seen
    "truncated",  # the body is complete but names no finish reason
    "bad_stream",  # the body broke off, or is not the protocol
    "server_error",  # an error event, or HTTP 5xx without an invitation to retry
    "rejected",  # HTTP 4xx, 429, or 503 with Retry-After
    "unreachable",  # no connection, no name, no TLS
    "timed_out",
    "cancelled",  # by us: the drain ended or the user interrupted
    "oom",
)
PHASES = ("warmup", "measured", "drain")

Outcome = Annotated[str, OneOf(OUTCOMES)]
Count = Annotated[int, AtLeast(0)]

Phase = Literal["warmup", "measured", "drain"]
CountSource = Literal["server", "tokenizer"]
# Who stamped the arrival of bytes: the kernel as they came in, or this process as it read them.
StampSource = Literal["kernel", "user"]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the backend itself reported about one request; travels beside, never instead.

    Durations in seconds, memory in bytes; a fact the backend does not report is None.
    """

    load: float | None = None
    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    cached_prompt_tokens: int | None = None
    peak_memory_bytes: int | None = None
    cuda_ms: float | None = None


# Not frozen: one is made per request, and freezing triples what that costs.
@dataclass(slots=True)
class RequestRecord:
    """One request from the instant it was due to the instant its outcome was known.

    due <= sent <= first_token <= last_token <= ended, where present. Latency is
    `last_token - due`; the generator's own lag is `sent - due`. `connect` are the seconds of
    opening a connection, absent where one was there; `counted_chunks` is what counting event
    ends gave, where decoding them gave something else. `asked_tokens` is how many were asked
    for; `first_answer` the first content after reasoning, absent where none came before it;
    `address` the place of the server among several of the manifest.
    """

    run: str
    stage: Count
    agent: Count
    seq: Count
    agents: Count
    phase: Phase
    outcome: Outcome
    due: float
    ended: float
    sent: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    prompt_tokens: Count | None = None
    prompt_source: CountSource | None = None
    output_tokens: Count | None = None
    output_source: CountSource | None = None
    chunks: Count = 0
    # Microseconds between consecutive content chunks, rounded: `chunks - 1` of them.
    gaps_us: list[Count] = field(default_factory=list)
    finish_reason: str | None = None
    status: int | None = None
    error: str | None = None
    server: ServerFacts | None = None
    retries: Count = 0
    connect: Annotated[float, AtLeast(0)] | None = None
    stamps: StampSource | None = None
    counted_chunks: Count | None = None
    asked_tokens: Count | None = None
    first_answer: float | None = None
    address: Count | None = None

    @property
    def latency(self) -> float | None:
        """Seconds from `due` to the last token."""
        return None if self.last_token is None else self.last_token - self.due

    @property
    def ttft(self) -> float | None:
        """Time to first token: seconds from `due` to the first chunk with content."""
        return None if self.first_token is None else self.first_token - self.due

    @property
    def ttft_answer(self) -> float | None:
        """Seconds from `due` to the first content after reasoning."""
        return None if self.first_answer is None else self.first_answer - self.due

    @property
    def send_lag(self) -> float | None:
        """Seconds by which the generator itself was late."""
        return None if self.sent is None else self.sent - self.due

    @property
    def tpot(self) -> float | None:
        """Time per output token: (last_token - first_token) / (output_tokens - 1)."""
        first, last, tokens = self.first_token, self.last_token, self.output_tokens or 0
        if first is None or last is None or tokens < 2:
            return None
        return (last - first) / (tokens - 1)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """Build from a JSON object; ValueError names the field that is wrong or missing, or that
        contradicts another."""
        values = conform(cls, line)
        if values.get("server") is not None:
            values["server"] = ServerFacts(**conform(ServerFacts, values["server"]))
        record = cls(**values)
        if (wrong := flaw(record)) is not None:
            raise ValueError(wrong)
        return record

    @classmethod
    def from_own(cls, line: dict[str, Any]) -> Self:
        """Build from a line that this very version wrote: nothing is checked."""
        values: Iterator[Any] = map(line.get, cls.__slots__, _DEFAULTS)
        record = cls(*values)
        if record.server is not None:
            record.server = ServerFacts(**line["server"])
        if not record.gaps_us:
            record.gaps_us = []
        return record


# By place: by name, each of the names would be looked for among all the others.
_DEFAULTS = tuple(
    None if each.default is MISSING else each.default for each in fields(RequestRecord)
)


@dataclass(frozen=True, slots=True)
class StageKey:
    """One cell of a run: what distinguishes its load from that of every other stage.

    An open loop has 0 agents and a `request_rate`, in requests/s on average.
    """

    backend: str
    model: str
    agents: int
    prompt_tokens: int
    output_tokens: int
    batch_size: int = 1
    repeat: int = 0
    request_rate: float | None = None

    @property
    def level(self) -> str:
        """The load as a reader says it: `8 agents`, `2.5 requests/s`."""
        if self.request_rate is not None:
            return f"{number_of(self.request_rate, 'request')}/s"
        return number_of(self.agents, "agent")


# Verdicts that doubt instants within a request, its first token and the gaps, and no more.
WITHIN = {"generator"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One honest doubt about a stage: what was seen against the limit it was held to.

    `checked` is False when the data cannot answer (then `ok` says nothing).
    """

    name: str
    ok: bool
    seen: float | None
    limit: float | None
    unit: str
    says: str
    checked: bool = True


@dataclass(frozen=True, slots=True)
class GeneratorError:
    """What the load generator itself may have added to the instants of one stage, in seconds.

    `stamp_delay` is the time from an arrival at the kernel until this process read it; without
    kernel stamps it is a timer's about the time of each read. It does not shift an instant that
    the kernel stamped, but for those `merged` arrivals that were read together with the one
    before. `declared` is the bound stated for the p99 of the error of a first token and of a
    gap: the true one is not above it; None where nobody knows.
    """

    declared: float | None = None
    send_lag_p50: float | None = None
    send_lag_p99: float | None = None
    loop_lag_p50: float | None = None
    loop_lag_p99: float | None = None
    stamp_delay_p50: float | None = None
    stamp_delay_p99: float | None = None
    kernel_share: float | None = None  # of the reads
    reads: int = 0
    missing: int = 0  # kernel stamps that did not come
    merged: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One finished stage: one line of `stages.jsonl`, appended when its drain is over.

    [start, end) is the measured window in seconds since the epoch, and counts what completed
    inside it; `began` is when its agents started, `drained` when the last request ended.
    `steady_start` is where MSER-5 says the initial transient is over.
    """

    run: str
    stage: int
    key: StageKey
    began: float
    start: float
    end: float
    drained: float
    start_unix: float
    end_unix: float
    steady_start: float
    outcomes: dict[str, int]  # measured phase only
    sent: int  # requests of all phases
    verdicts: list[Verdict]
    complete: bool = True  # False: cut short by an interrupt or by a target that went away
    generator: GeneratorError | None = None

    @property
    def good(self) -> bool:
        """True when no check that could be made failed."""
        return self.complete and not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [v.name for v in self.verdicts if v.checked and not v.ok]

    @property
    def whole(self) -> bool:
        """True when nothing that failed is about whole requests: their number and duration."""
        return self.complete and set(self.failed) <= WITHIN

    def to_json(self) -> dict[str, Any]:
        """The stage as a plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """Build from a JSON object; ValueError names the field that is wrong or missing."""
        values = conform(cls, line)
        values["key"] = StageKey(**conform(StageKey, values["key"]))
        values["verdicts"] = [Verdict(**conform(Verdict, v)) for v in values["verdicts"]]
        if values.get("generator") is not None:
            values["generator"] = GeneratorError(**conform(GeneratorError, values["generator"]))
        return cls(**values)


RunStatus = Literal["running", "complete", "partial", "failed"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is: written first, replaced atomically as its status changes.

    `planned` lists every stage in order, so that a run cut short can name what is missing; it
    grows, stage by stage, where each is decided by those before.
    `pid` and `pid_started` (seconds, wall clock) tell a live writer from a dead one.
    """

    schema: int
    run: str
    status: RunStatus
    epoch_unix: float
    config: dict[str, Any]
    config_sha256: str
    planned: list[StageKey]
    model: dict[str, Any]  # name, quantization, parameters, weight bytes, context length
    server: dict[str, Any]  # backend, address, version
    host: dict[str, Any]  # name, system, cpu, cores, memory_bytes
    gpus: list[dict[str, Any]]
    versions: dict[str, str]
    pid: int
    pid_started: float
    ended_unix: float | None = None
    note: str | None = None

    @property
    def addresses(self) -> list[str]:
        """The servers of a run on several, in the order of its records' `address`; [] otherwise."""
        return list(self.server.get("addresses") or ())

    @property
    def hardware(self) -> str:
        """The name fits are keyed by: the user's, else the GPU, else the processor.

        Only the user can name the hardware of a server on another machine. Of several servers it
        says how many: what was measured is what all of them do together.
        """
        several = len(self.addresses)
        return f"{several} servers on {self._hardware}" if several else self._hardware

    @property
    def _hardware(self) -> str:
        if self.config.get("hardware"):
            return str(self.config["hardware"])
        if self.server.get("remote"):
            return "unknown"
        if self.gpus:
            return " + ".join(str(gpu["name"]) for gpu in self.gpus)
        return str(self.host.get("cpu") or "unknown")

    def to_json(self) -> dict[str, Any]:
        """The manifest as a plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Build from a JSON object; ValueError names the field that is wrong or missing."""
        values = conform(cls, document)
        values["planned"] = [StageKey(**conform(StageKey, k)) for k in values["planned"]]
        for name, wanted in (("model", "name"), ("server", "backend")):
            if not isinstance(values[name].get(wanted), str):
                raise ValueError(f"{name}.{wanted}: a text is expected")
        for name in ("parameters", "weight_bytes", "context_length"):
            found = values["model"].get(name)
            if found is not None and (type(found) not in (int, float) or not 0 <= found < MOST):
                raise ValueError(f"model.{name}: {found!r} found, a number at least 0 is expected")
        addresses = values["server"].get("addresses") or []
        if not isinstance(addresses, list) or not all(isinstance(a, str) for a in addresses):
            raise ValueError("server.addresses: a list of texts is expected")
        if not all(isinstance(gpu.get("name"), str) for gpu in values["gpus"]):
            raise ValueError("gpus: every one has a name")
        return cls(**values)
