"""What the measured records of one stage add up to, whichever file they were read from."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from contract.records import RequestRecord


@dataclass(slots=True)
class Mean:
    """A running mean; None of no values."""

    total: float = 0.0
    n: int = 0

    def add(self, value: float | None) -> None:
        """Take one value, if there is one."""
        if value is not None:
            self.total += value
            self.n += 1

    @property
    def value(self) -> float | None:
        """The mean so far."""
        return self.total / self.n if self.n else None


@dataclass(slots=True)
class Counted:
    """Outcomes of all measured requests; instants and means of those that ended ok."""

    outcomes: Counter[str] = field(default_factory=Counter)
    instants: array[float] = field(default_factory=lambda: array("d"))
    latency: Mean = field(default_factory=Mean)
    output_tokens: Mean = field(default_factory=Mean)
    prompt_tokens: Mean = field(default_factory=Mean)

    def add(self, record: RequestRecord) -> None:
        """Take one measured record."""
        self.outcomes[record.outcome] += 1
        if record.outcome != "ok":
            return
        self.instants.append(record.ended)
        self.latency.add(record.latency)
        self.output_tokens.add(record.output_tokens)
        self.prompt_tokens.add(record.prompt_tokens)
