"""One stage in figures: a few counters while requests flow, and the rest from its records.

What a stage did lies on disk, line by line. So nothing is kept of a request while others are
waited for: memory does not grow with requests, and the hot path pays a few additions. Once the
drain is over the records are read back, and the verdicts and the summary read from their tally.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contract.records import RequestRecord
from loadgen.figures.durations import Durations
from loadgen.figures.goodput import Objectives
from loadgen.figures.stamp_stats import StampStats

if TYPE_CHECKING:
    from loadgen.figures.verdicts import Evidence

MOST_REASONS = 100  # told apart; servers put ids and addresses into what they say


@dataclass(slots=True)
class Counts:
    """What a stage knows of itself while requests flow; its size does not depend on them."""

    sent: int = 0
    ok: int = 0  # any phase
    measured: int = 0  # completions in the window
    outcomes: Counter[str] = field(default_factory=Counter)  # measured phase
    reasons: Counter[str] = field(default_factory=Counter)  # why not ok, any phase
    loop_lags: Durations = field(default_factory=Durations)
    stamps: StampStats | None = None  # of those who sent, where they stamp what they read

    def add(self, record: RequestRecord) -> None:
        """Take one record."""
        self.sent += 1
        outcome = record.outcome
        if outcome == "ok":
            self.ok += 1
        else:
            self._fail(outcome, record.error)
        if record.phase == "measured":
            self.measured += 1
            self.outcomes[outcome] += 1

    def _fail(self, outcome: str, error: str | None) -> None:
        reason = f"{outcome}: {error or 'no detail'}"
        _count(self.reasons, reason, f"{outcome}: other")


def _count(reasons: Counter[str], reason: str, other: str) -> None:
    """Once more for this reason; for the other ones where too many are told apart already."""
    reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else other] += 1


def of_this_machine(record: RequestRecord) -> bool:
    """Whether a request reached nobody for a lack of this machine's, which says nothing of the
    target."""
    return record.outcome == "unreachable" and "on this machine" in (record.error or "")


def _floats() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Part:
    """What one of several servers did of a stage: of its measured requests, and columns of those
    that ended ok."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=_floats)
    ttfts: array[float] = field(default_factory=_floats)
    output_tokens: int | None = 0  # None once a request's count is not known

    def add(self, record: RequestRecord) -> None:
        """Take one measured record."""
        self.outcomes[record.outcome] += 1
        if record.outcome != "ok":
            return
        for column, value in ((self.latencies, record.latency), (self.ttfts, record.ttft)):
            if value is not None:
                column.append(value)
        self.output_tokens = _sum(self.output_tokens, record.output_tokens)


@dataclass(slots=True)
class Tally:
    """Sums and columns over the records of one stage that is over.

    Columns hold measured requests that ended ok, in the order they ended; `dues` and `endeds`
    hold every request of every phase, for the time average in flight. Gaps between chunks are
    apart by whether each chunk was one token.
    """

    objectives: Objectives | None = None
    mets: bytearray = field(default_factory=bytearray)  # measured: 1 met all objectives, 0 not
    loads: int = 0  # requests of any phase that waited for the model to be loaded
    outcomes: Counter[str] = field(default_factory=Counter)  # measured phase
    sent: int = 0
    latencies: array[float] = field(default_factory=_floats)
    ttfts: array[float] = field(default_factory=_floats)
    answer_ttfts: array[float] = field(default_factory=_floats)  # of those that reasoned before
    tpots: array[float] = field(default_factory=_floats)
    send_lags: array[float] = field(default_factory=_floats)
    token_gaps: Durations = field(default_factory=Durations)
    other_gaps: Durations = field(default_factory=Durations)
    dues: array[float] = field(default_factory=_floats)
    endeds: array[float] = field(default_factory=_floats)
    measured_stays: array[float] = field(default_factory=_floats)
    prompt_tokens: int | None = 0  # None once a request's count is not known
    output_tokens: int | None = 0
    chunks: int = 0
    merged_first: int = 0  # first tokens that were read together with the second
    cached_tokens: int = 0
    token_pairs: list[tuple[int, int]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # measured, and why not ok
    unreached: int = 0  # measured: the last so many ended without reaching anybody
    heard: float | None = None  # when the last measured request before them ended
    parts: defaultdict[int, Part] = field(default_factory=lambda: defaultdict(Part))  # by address

    @property
    def met(self) -> int:
        """Measured requests that met all objectives."""
        return sum(self.mets)

    @property
    def chunk_gaps(self) -> Durations:
        """All gaps between chunks."""
        return self.token_gaps + self.other_gaps

    @property
    def merged(self) -> int:
        """Chunks that were read together with the one before."""
        return self.token_gaps.count(0) + self.other_gaps.count(0)

    def add(self, record: RequestRecord, client_tokens: int | None = None) -> None:
        """Take one record; `client_tokens` is our own count where we have a tokenizer."""
        self.sent += 1
        if record.server is not None:
            self.loads += bool(record.server.load)
        self.dues.append(record.due)
        self.endeds.append(record.ended)
        if record.phase != "measured":
            return
        self.outcomes[record.outcome] += 1
        self.measured_stays.append(record.ended - record.due)
        if record.outcome != "ok":
            _count(self.reasons, record.error or "no detail", "other")
        if record.outcome != "unreachable":
            self.unreached, self.heard = 0, record.ended
        elif not of_this_machine(record):
            self.unreached += 1
        if self.objectives is not None:
            self.mets.append(self.objectives.met_by(record))
        if record.address is not None:
            self.parts[record.address].add(record)
        if record.outcome == "ok":
            self._add_ok(record, client_tokens)

    def _add_ok(self, record: RequestRecord, client_tokens: int | None) -> None:
        for column, value in (
            (self.latencies, record.latency),
            (self.ttfts, record.ttft),
            (self.answer_ttfts, record.ttft_answer),
            (self.tpots, record.tpot),
            (self.send_lags, record.send_lag),
        ):
            if value is not None:
                column.append(value)
        if record.gaps_us:
            self.merged_first += not record.gaps_us[0]
            one_each = record.chunks == record.output_tokens
            (self.token_gaps if one_each else self.other_gaps).update(record.gaps_us)
        self.prompt_tokens = _sum(self.prompt_tokens, record.prompt_tokens)
        self.output_tokens = _sum(self.output_tokens, record.output_tokens)
        self.chunks += record.chunks
        if record.server is not None:
            self.cached_tokens += record.server.cached_prompt_tokens or 0
        if record.output_source == "server" and client_tokens is not None:
            self.token_pairs.append((record.output_tokens or 0, client_tokens))

    def in_flight(self, start: float, end: float) -> float:
        """Time average of requests in flight over [start, end), by overlap."""
        if end <= start:
            return 0.0
        overlap = sum(
            max(0.0, min(ended, end) - max(due, start))
            for due, ended in zip(self.dues, self.endeds, strict=True)
        )
        return overlap / (end - start)

    def evidence(self, agents: int, start: float, end: float, loop_lags: Durations) -> Evidence:
        """The figures the verdicts are made of; no record holds how late the loop was."""
        from loadgen.figures.verdicts import Evidence

        completions = sum(self.outcomes.values())
        stays = self.measured_stays
        return Evidence(
            agents=agents,
            seconds=end - start,
            in_flight=self.in_flight(start, end),
            completions=completions,
            mean_stay=sum(stays) / len(stays) if stays else None,
            latencies=self.latencies,
            send_lags=self.send_lags,
            loop_lags=loop_lags,
            token_pairs=self.token_pairs,
            cached_tokens=self.cached_tokens,
            failures=completions - self.outcomes["ok"],
        )


def tallies(
    records: Iterable[RequestRecord], objectives: Objectives | None = None
) -> defaultdict[int, Tally]:
    """The tally of each stage, by its number; an empty one for a stage without records."""
    found: defaultdict[int, Tally] = defaultdict(lambda: Tally(objectives))
    for record in records:
        found[record.stage].add(record)
    return found


def _sum(so_far: int | None, more: int | None) -> int | None:
    return None if so_far is None or more is None else so_far + more
