"""What llama.cpp's server says of one answer, and what Ollama makes of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loadgen.fakes.slots import Visit

LEAST = 1e-3  # milliseconds; so a single token has a duration, which Ollama does not leave out


@dataclass(frozen=True, slots=True)
class Timings:
    """llama-server's `timings`, milliseconds.

    `prompt_ms` runs to the first token, `predicted_ms` from there to the last one, a microsecond
    at least; `cache_n` + `prompt_n` is the whole prompt. Waiting before the step that takes the
    prompt in is in neither.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float

    def document(self) -> dict[str, Any]:
        """The object as the server prints it, rates included."""
        steps = self.predicted_n - 1
        return {
            "cache_n": self.cache_n,
            "prompt_n": self.prompt_n,
            "prompt_ms": self.prompt_ms,
            "prompt_per_token_ms": _ratio(self.prompt_ms, self.prompt_n),
            "prompt_per_second": _ratio(1e3 * self.prompt_n, self.prompt_ms),
            "predicted_n": self.predicted_n,
            "predicted_ms": self.predicted_ms,
            "predicted_per_token_ms": _ratio(self.predicted_ms, steps),
            "predicted_per_second": _ratio(1e3 * steps, self.predicted_ms),
        }

    def ollama_counters(self) -> dict[str, int]:
        """The same in Ollama's final object: nanoseconds, what is zero left out."""
        return without_zeros(
            prompt_eval_count=self.cache_n + self.prompt_n,
            prompt_eval_duration=round(1e6 * self.prompt_ms),
            eval_count=self.predicted_n,
            eval_duration=round(1e6 * self.predicted_ms),
        )


def timings(visit: Visit) -> Timings:
    """Those of an answer whose first and last tokens are made."""
    start, first, last = visit.start or 0.0, visit.first or 0.0, visit.last or 0.0
    return Timings(
        cache_n=visit.cached_tokens,
        prompt_n=visit.prompt_tokens - visit.cached_tokens,
        prompt_ms=1e3 * (first - start),
        predicted_n=visit.output_tokens,
        predicted_ms=max(LEAST, 1e3 * (last - first)),
    )


def without_zeros(**counters: int) -> dict[str, int]:
    """Go's omitempty."""
    return {name: value for name, value in counters.items() if value}


def _ratio(over: float, under: float) -> float:
    return over / under if under else 0.0
