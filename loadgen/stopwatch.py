"""The one stopwatch: it times every backend alike, and turns marks into a record.

A backend never reads a clock. It marks the arrival of bytes or of a token, afterwards says
which marks carried content, and the record follows. Pure: the clock is a parameter.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from contract.records import CountSource, Phase, RequestRecord, ServerFacts


@dataclass(frozen=True, slots=True)
class Ids:
    """Which request of which run this is."""

    run: str
    stage: int
    agents: int
    agent: int
    seq: int


@dataclass(frozen=True, slots=True)
class Facts:
    """How one exchange ended, read from what was kept of it.

    `content` holds, per content chunk, the index of the mark at which it was complete; several
    chunks may share a mark (they arrived in one read). None means every mark was one chunk.
    """

    outcome: str
    finish_reason: str | None = None
    content: Sequence[int] | None = None
    prompt_tokens: int | None = None
    prompt_source: CountSource | None = None
    output_tokens: int | None = None
    output_source: CountSource | None = None
    status: int | None = None
    error: str | None = None
    server: ServerFacts | None = None


@dataclass(slots=True)
class Stopwatch:
    """Instants of one exchange, in the clock's seconds. `mark` is safe from any thread."""

    clock: Callable[[], float]
    due: float
    sent_at: float | None = None
    marks: array[float] = field(default_factory=lambda: array("d"))

    def sent(self) -> None:
        """The request is handed over: the first call counts."""
        if self.sent_at is None:
            self.sent_at = self.clock()

    def mark(self) -> None:
        """Something arrived now."""
        self.marks.append(self.clock())


ERROR_CHARACTERS = 300


def record(watch: Stopwatch, facts: Facts, ids: Ids, phase: Phase, ended: float) -> RequestRecord:
    """The record of one exchange; latencies exist only where content arrived."""
    marks = watch.marks
    instants = marks if facts.content is None else [marks[i] for i in facts.content]
    gaps = [round((after - before) * 1e6) for before, after in pairwise(instants)]
    return RequestRecord(
        run=ids.run,
        stage=ids.stage,
        agent=ids.agent,
        seq=ids.seq,
        agents=ids.agents,
        phase=phase,
        outcome=facts.outcome,
        due=watch.due,
        ended=ended,
        sent=watch.sent_at,
        first_token=instants[0] if instants else None,
        last_token=instants[-1] if instants else None,
        prompt_tokens=facts.prompt_tokens,
        prompt_source=facts.prompt_source,
        output_tokens=facts.output_tokens,
        output_source=facts.output_source,
        chunks=len(instants),
        gaps_us=gaps,
        finish_reason=facts.finish_reason,
        status=facts.status,
        error=facts.error[:ERROR_CHARACTERS] if facts.error else None,
        server=facts.server,
    )
