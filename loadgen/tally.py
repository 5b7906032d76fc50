"""What one stage has seen so far, kept compactly: the verdicts and the summary read from it."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from contract.records import RequestRecord
from loadgen.goodput import Objectives
from loadgen.verdicts import Evidence


def _floats() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Tally:
    """Sums and columns over the records of one stage.

    Columns hold measured requests that ended ok, in the order they ended; `stays` holds
    (due, ended) of every request of every phase, for the time average in flight.
    """

    objectives: Objectives | None = None
    mets: bytearray = field(default_factory=bytearray)  # measured: 1 met all objectives, 0 not
    loads: int = 0  # requests of any phase that waited for the model to be loaded
    outcomes: Counter[str] = field(default_factory=Counter)  # measured phase
    reasons: Counter[str] = field(default_factory=Counter)  # why not ok, any phase
    sent: int = 0
    ok: int = 0  # any phase
    latencies: array[float] = field(default_factory=_floats)
    ttfts: array[float] = field(default_factory=_floats)
    tpots: array[float] = field(default_factory=_floats)
    send_lags: array[float] = field(default_factory=_floats)
    chunk_gaps: array[float] = field(default_factory=_floats)
    token_gaps: array[float] = field(default_factory=_floats)
    loop_lags: array[float] = field(default_factory=_floats)
    dues: array[float] = field(default_factory=_floats)
    endeds: array[float] = field(default_factory=_floats)
    measured_stays: array[float] = field(default_factory=_floats)
    prompt_tokens: int | None = 0  # None once a request's count is not known
    output_tokens: int | None = 0
    chunks: int = 0
    cached_tokens: int = 0
    token_pairs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def met(self) -> int:
        """Measured requests that met all objectives."""
        return sum(self.mets)

    def add(self, record: RequestRecord, client_tokens: int | None = None) -> None:
        """Take one record; `client_tokens` is our own count where we have a tokenizer."""
        self.sent += 1
        self.ok += record.outcome == "ok"
        self.loads += record.server is not None and bool(record.server.load)
        self.dues.append(record.due)
        self.endeds.append(record.ended)
        if record.outcome != "ok":
            self.reasons[f"{record.outcome}: {record.error or 'no detail'}"] += 1
        if record.phase != "measured":
            return
        self.outcomes[record.outcome] += 1
        self.measured_stays.append(record.ended - record.due)
        if self.objectives is not None:
            self.mets.append(self.objectives.met_by(record))
        if record.outcome == "ok":
            self._add_ok(record, client_tokens)

    def _add_ok(self, record: RequestRecord, client_tokens: int | None) -> None:
        for column, value in (
            (self.latencies, record.latency),
            (self.ttfts, record.ttft),
            (self.tpots, record.tpot),
            (self.send_lags, record.send_lag),
        ):
            if value is not None:
                column.append(value)
        gaps = [gap / 1e6 for gap in record.gaps_us]
        self.chunk_gaps.extend(gaps)
        if record.chunks == record.output_tokens:
            self.token_gaps.extend(gaps)
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

    def evidence(self, agents: int, start: float, end: float) -> Evidence:
        """The figures the verdicts are made of."""
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
            loop_lags=self.loop_lags,
            token_pairs=self.token_pairs,
            cached_tokens=self.cached_tokens,
            failures=completions - self.outcomes["ok"],
        )


def _sum(so_far: int | None, more: int | None) -> int | None:
    return None if so_far is None or more is None else so_far + more
