"""What load a run puts on its target, and what its requests ask for: strict, flat, documented.

Notations (`64..512`, `poisson`, `5:60,5..20:120`) are checked here and read where they are used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from contract.config import StrictModel
from contract.errors import LabError
from loadgen.figures.goodput import parse_goodput
from loadgen.workload.arrivals import Arrivals, RateStage, parse_rates, parse_stages
from loadgen.workload.lengths import parse_lengths
from loadgen.workload.prompts import LEAST_TOKENS
from loadgen.workload.think import parse_think

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]


def _text(value: Any) -> Any:
    """YAML reads 64 as a number where a notation is text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _notation(parse: Any, *more: Any) -> AfterValidator:
    def check(text: str) -> str:
        try:
            parse(text, *more)
        except LabError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


Isl = Annotated[str, BeforeValidator(_text), _notation(parse_lengths, "isl", LEAST_TOKENS)]
Osl = Annotated[str, BeforeValidator(_text), _notation(parse_lengths, "osl")]
Rates = Annotated[str, BeforeValidator(_text), _notation(parse_rates, "request_rate")]
Stages = Annotated[str, BeforeValidator(_text), _notation(parse_stages, "rate_stages")]
Think = Annotated[str, BeforeValidator(_text), _notation(parse_think, "think")]
Goodput = Annotated[str, _notation(parse_goodput, "goodput")]


class PromptSettings(StrictModel):
    """What every request asks for."""

    isl: Isl
    osl: Osl
    dataset: str | None = None
    dataset_type: Literal["sharegpt", "jsonl", "text"] | None = None
    shared_prefix: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    prefix_groups: Count = 1
    turns: Annotated[str, BeforeValidator(_text), _notation(parse_lengths, "turns")] = "1"


class LoadSettings(StrictModel):
    """How requests come about: a closed loop of agents, or arrivals at a rate."""

    arrival: Literal["closed", "constant", "poisson", "gamma"] = "closed"
    request_rate: Rates | None = None
    rate_stages: Stages | None = None
    burstiness: Annotated[float, Field(gt=0, le=1000)] = 1.0
    max_concurrency: Count | None = None
    trace: str | None = None
    trace_type: Literal["azure", "mooncake", "burstgpt", "jsonl"] | None = None
    trace_time_unit: Literal["s", "ms", "us", "ns"] | None = None
    trace_speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    think: Think = "0"
    duration: Seconds | None = None
    request_count: Count | None = None
    warmup_requests: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    warmup_duration: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    most_errors: Share | None = None
    goodput: Goodput | None = None

    @property
    def open(self) -> bool:
        """Whether requests come at instants of their own."""
        return self.arrival != "closed"

    @model_validator(mode="before")
    @classmethod
    def _a_rate_means_arrivals(cls, document: Any) -> Any:
        """`--request-rate 5` alone is Poisson; a trace or rate stages are open loops too."""
        rated = ("request_rate", "rate_stages", "trace")
        if isinstance(document, dict) and any(document.get(name) is not None for name in rated):
            return {"arrival": "poisson", **document}
        return document

    @model_validator(mode="after")
    def _one_load(self) -> LoadSettings:
        given = [
            name
            for name in ("request_rate", "rate_stages", "trace")
            if getattr(self, name) is not None
        ]
        if self.open and len(given) != 1:
            raise ValueError(
                f"arrival {self.arrival} wants exactly one of request_rate, rate_stages and "
                f"trace, given {', '.join(given) or 'none'}"
            )
        if not self.open and given:
            raise ValueError(f"{given[0]} is for an open loop, arrival is closed")
        if not self.open and self.max_concurrency is not None:
            raise ValueError("max_concurrency is for an open loop; a closed one has agents")
        if self.open and self.think != "0":
            raise ValueError("think is for a closed loop; arrivals do not wait")
        if self.open:
            self.schedules()
        return self

    @model_validator(mode="after")
    def _one_stop(self) -> LoadSettings:
        if self.duration is not None and self.request_count is not None:
            raise ValueError("duration and request_count exclude each other, give one of them")
        return self

    def schedules(self) -> list[Arrivals]:
        """One arrival schedule per stage of an open loop; [] for a trace."""
        pattern: Any = self.arrival
        try:
            if self.rate_stages is not None:
                return [Arrivals(parse_stages(self.rate_stages), pattern, self.burstiness)]
            if self.request_rate is not None:
                rates = parse_rates(self.request_rate)
                return [Arrivals((RateStage(rate),), pattern, self.burstiness) for rate in rates]
        except LabError as error:
            raise ValueError(str(error)) from error
        return []
