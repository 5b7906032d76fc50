"""The one stopwatch: it times every backend alike, and turns marks into a record.

A backend never reads a clock. It marks the arrival of bytes or of a token, afterwards says
which marks carried content, and the record follows. Pure: the clock is a parameter.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, overload

from contract.records import CountSource, Phase, RequestRecord, ServerFacts, StampSource


class Ids(NamedTuple):
    """Which request of which run this is."""

    run: str
    stage: int
    agents: int
    agent: int
    seq: int

    def __str__(self) -> str:
        return f"{self.run}-{self.stage}-{self.agent}-{self.seq}"


class PerMark(Sequence[int]):
    """Content chunks given by their number per mark: `counts[i]` were complete at mark i.

    As a sequence it holds, per chunk, the index of its mark, in order.
    """

    __slots__ = ("_marks", "counts")

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = counts
        self._marks: list[int] | None = None

    def __len__(self) -> int:
        return sum(self.counts)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if self._marks is None:
            self._marks = [mark for mark, n in enumerate(self.counts) for _ in range(n)]
        return self._marks[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


# Not frozen: one is made per request, and freezing triples what that costs.
@dataclass(slots=True)
class Facts:
    """How one exchange ended, read from what was kept of it.

    `content` holds, per content chunk, the index of the mark at which it was complete; several
    chunks may share a mark (they arrived in one read). None means every mark was one chunk.
    `counted` is how many chunks the event ends alone gave, where that was not what decoding
    gave. `connect` is None on a connection that was there already.

    `answer` is the mark of the first content after reasoning, None where no reasoning came first or
    nothing followed it. A `whole` answer came in one piece: its last mark is the last token's, and
    nobody knows the first. `text` is what was said, where the request wanted it kept.
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
    counted: int | None = None
    retries: int = 0
    connect: float | None = field(default=None, compare=False)  # seconds
    stamps: StampSource | None = None
    answer: int | None = None
    whole: bool = False
    text: str | None = field(default=None, compare=False)


@dataclass(slots=True)
class Stopwatch:
    """Instants of one exchange, in the clock's seconds. `mark` is safe from any thread.

    `address` is the place of the server it goes to, where there are several.
    """

    clock: Callable[[], float]
    due: float
    sent_at: float | None = None
    marks: array[float] = field(default_factory=lambda: array("d"))
    address: int | None = None

    def sent(self) -> None:
        """The request is handed over: the first call counts."""
        if self.sent_at is None:
            self.sent_at = self.clock()

    def sent_by(self, instant: float) -> None:
        """The request was handed over then: the first call counts. Never before it was due."""
        if self.sent_at is None:
            self.sent_at = instant if instant > self.due else self.due

    def mark(self) -> None:
        """Something arrived now."""
        self.marks.append(self.clock())

    def mark_at(self, instant: float) -> None:
        """Something arrived then; instants come in order."""
        self.marks.append(instant)


ERROR_CHARACTERS = 300


def record(
    watch: Stopwatch, facts: Facts, ids: Ids, phase: Phase, ended: float, asked: int | None = None
) -> RequestRecord:
    """The record of one exchange that asked for `asked` tokens; latencies exist only where
    content arrived."""
    marks = watch.marks
    first, last, chunks, gaps = _timing(marks, facts.content)
    if facts.whole and marks:
        last = marks[-1]
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
        first_token=first,
        last_token=last,
        prompt_tokens=facts.prompt_tokens,
        prompt_source=facts.prompt_source,
        output_tokens=facts.output_tokens,
        output_source=facts.output_source,
        chunks=chunks,
        gaps_us=gaps,
        finish_reason=facts.finish_reason,
        status=facts.status,
        error=facts.error[:ERROR_CHARACTERS] if facts.error else None,
        server=facts.server,
        retries=facts.retries,
        connect=facts.connect,
        stamps=facts.stamps,
        counted_chunks=facts.counted,
        asked_tokens=asked,
        first_answer=None if facts.answer is None else marks[facts.answer],
        address=watch.address,
    )


def _timing(
    marks: array[float], content: Sequence[int] | None
) -> tuple[float | None, float | None, int, list[int]]:
    """First and last instant with content, number of chunks, gaps between them in µs."""
    if isinstance(content, PerMark):
        return _timing_per_mark(marks, content.counts)
    instants = marks if content is None else [marks[i] for i in content]
    gaps = [round((after - before) * 1e6) for before, after in pairwise(instants)]
    if not instants:
        return None, None, 0, gaps
    return instants[0], instants[-1], len(instants), gaps


def _timing_per_mark(
    marks: array[float], counts: Sequence[int]
) -> tuple[float | None, float | None, int, list[int]]:
    """The same at a cost per mark, not per chunk."""
    first = last = None
    gaps: list[int] = []
    for instant, count in zip(marks, counts, strict=False):
        if count:
            if last is None:
                first = instant
            else:
                gaps.append(round((instant - last) * 1e6))
            if count > 1:
                gaps += [0] * (count - 1)
            last = instant
    return first, last, len(gaps) + (first is not None), gaps
