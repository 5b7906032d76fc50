"""What a run is asked to do: YAML and flags merged once into one strict, frozen model."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from contract.errors import ConfigError
from loadgen.backends.settings import (
    CUSTOMARY,
    RESETTABLE,
    HfSettings,
    OllamaSettings,
    Settings,
)
from loadgen.figures.goodput import parse_goodput
from loadgen.figures.percentiles import CUSTOMARY as CUSTOMARY_PERCENTILES
from loadgen.figures.percentiles import parse_percentiles
from loadgen.load_settings import LoadSettings, PromptSettings, Seconds
from loadgen.ranges import parse_levels
from loadgen.workload.lengths import parse_lengths
from loadgen.workload.prompts import LEAST_TOKENS


class RunConfig(PromptSettings, LoadSettings):
    """One run: every level of `agents` (or every rate) is a stage, `repeats` times over."""

    backend: Settings = Field(default_factory=HfSettings)
    model: str | None = None
    hardware: str | None = None  # what the server runs on, where that is not this machine
    agents: tuple[int, ...] = (1, 2, 4, 8)
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    shards: Annotated[int, Field(ge=1, le=64)] = 1  # processes that send, on this machine
    timeout: Seconds = 120.0
    grace_period: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    percentiles: tuple[float, ...] = CUSTOMARY_PERCENTILES
    reset_cache: bool = False  # empty the server's prefix cache before every stage
    output_dir: str = "runs"
    save_text: bool = False  # prompts and replies, into replies.jsonl
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 9210
    metrics_address: str = "127.0.0.1"
    metrics_linger: Annotated[float, Field(ge=0, le=3600)] = 15.0

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_customary(cls, document: Any) -> Any:
        """Lengths and stage seconds depend on the backend: fill them before checking."""
        if not isinstance(document, dict):
            return document
        backend = document.get("backend", {})
        kind = backend.get("kind", "hf") if isinstance(backend, dict) else "hf"
        seconds, isl, osl = CUSTOMARY.get(kind, CUSTOMARY["hf"])
        filled = {"isl": isl, "osl": osl, **document}
        ends_itself = filled.get("trace") is not None or filled.get("rate_stages") is not None
        stops = (filled.get("duration"), filled.get("request_count"))
        if stops == (None, None) and not ends_itself:
            filled["duration"] = seconds
        return filled

    @field_validator("agents", mode="before")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return value
        try:
            return parse_levels("" if value is None else str(value), "agents")
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @field_validator("percentiles", mode="before")
    @classmethod
    def _percentiles(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else str(value)
        try:
            return parse_percentiles(given, "percentiles")
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @field_validator("agents")
    @classmethod
    def _sensible(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not levels or min(levels) < 1 or len(set(levels)) < len(levels):
            raise ValueError(f"distinct levels of at least 1 are wanted, given {list(levels)}")
        return levels

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> RunConfig:
        """What the rest makes void was meant otherwise."""
        no_trace = self.trace is None
        void = {
            "agents": self.open and "arrivals do not wait for agents; see max_concurrency",
            "burstiness": not self.open and "it is for arrivals at a rate",
            "prefix_groups": not self.shared_prefix and "there is no shared_prefix",
            "dataset_type": self.dataset is None and "there is no dataset",
            "trace_type": no_trace and "there is no trace",
            "trace_time_unit": no_trace and "there is no trace",
            "trace_speed": no_trace and "there is no trace",
        }
        for name, why in void.items():
            if why and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: given in vain, {why}")
        return self

    @model_validator(mode="after")
    def _fits_the_context(self) -> RunConfig:
        """What does not fit is refused or cut by the server, or its context shifts."""
        context = self.backend.num_ctx if isinstance(self.backend, OllamaSettings) else None
        longest = parse_lengths(self.isl).most + parse_lengths(self.osl).most
        if context is not None and longest > context:
            raise ValueError(
                f"isl {self.isl} + osl {self.osl} do not fit into num_ctx {context}; "
                "shorten them or raise num_ctx"
            )
        return self

    @model_validator(mode="after")
    def _can_be_reset(self) -> RunConfig:
        kind = self.backend.kind
        if self.reset_cache and kind not in RESETTABLE:
            raise ValueError(
                f"reset_cache: not for backend '{kind}', only for {', '.join(RESETTABLE)}"
            )
        return self

    @model_validator(mode="after")
    def _holds_its_prefix(self) -> RunConfig:
        """A drawn prompt is a shared prefix, a nonce, and what is left of its length."""
        least = self.shared_prefix + LEAST_TOKENS
        drawn = self.dataset is None and self.trace is None
        if drawn and parse_lengths(self.isl).least < least:
            raise ValueError(
                f"isl {self.isl} does not hold a shared_prefix of {self.shared_prefix} tokens and "
                f"a nonce of {LEAST_TOKENS}, allowed: at least {least}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_dealt(self) -> RunConfig:
        """What one process alone can keep together is not dealt to several."""
        if self.shards == 1:
            return self
        given = f"shards: {self.shards} given"
        if isinstance(self.backend, HfSettings):
            raise ValueError(f"{given}, backend hf serves in one process, allowed: 1")
        if self.open and parse_lengths(self.turns).most > 1:
            raise ValueError(f"{given}, conversations of an open loop are one thread, allowed: 1")
        if self.max_concurrency is not None and self.max_concurrency < self.shards:
            raise ValueError(
                f"{given}, max_concurrency {self.max_concurrency} leaves some without a place, "
                f"allowed: 1..{self.max_concurrency}"
            )
        return self

    @property
    def keeps_text(self) -> bool:
        """Whether replies are wanted whole, however long."""
        return self.save_text or parse_lengths(self.turns).most > 1

    @property
    def wait_ready(self) -> float:
        """Seconds to wait for the server; a model in this process is there."""
        return 0.0 if isinstance(self.backend, HfSettings) else self.backend.wait_ready

    @model_validator(mode="after")
    def _seen_at_all(self) -> RunConfig:
        """An answer that comes whole has no first token and no gaps."""
        if not self.backend.streaming and self.goodput is not None:
            objectives = parse_goodput(self.goodput)
            for name in ("ttft", "tpot", "itl"):
                if getattr(objectives, name) is not None:
                    raise ValueError(f"goodput: nobody sees {name} without streaming")
        return self

    def sha256(self) -> str:
        """Hash of the resolved configuration, as it stands in the manifest."""
        document = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()
