"""Think times: how long an agent waits between a reply and its next request. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from contract.errors import ConfigError
from loadgen.workload.draws import uniform

LONGEST_THINK, MOST_SIGMA = 86_400.0, 5.0
ALLOWED_THINK = (
    "0, 2 (seconds), 1..5 (uniform), exponential(2) (mean), lognormal(2,0.5) (median, sigma)"
)

_SECONDS = r"(\d{1,5}(?:\.\d{1,9})?)"
_THINK = re.compile(
    rf"{_SECONDS}(?:\.\.{_SECONDS})?|exponential\({_SECONDS}\)|lognormal\({_SECONDS},\s*{_SECONDS}\)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ThinkTime:
    """Seconds between the end of a reply and the next question.

    `first` and `second`: the value; both ends; the mean; median and sigma of the logarithm.
    """

    law: Literal["fixed", "uniform", "exponential", "lognormal"] = "fixed"
    first: float = 0.0
    second: float = 0.0

    def draw(self, seed: int, *numbers: int) -> float:
        """The pause that `numbers` (agent and turn) name, never above a day."""
        if self.law == "fixed":
            return self.first
        return min(LONGEST_THINK, self._at(uniform(seed, "think", *numbers)))

    @property
    def mean(self) -> float:
        """Expected seconds."""
        if self.law == "uniform":
            return (self.first + self.second) / 2
        if self.law == "lognormal":
            return self.first * math.exp(self.second**2 / 2)
        return self.first

    @property
    def empty(self) -> bool:
        """Whether it is a range that ends before it begins."""
        return self.law == "uniform" and self.second < self.first

    def _at(self, u: float) -> float:
        if self.law == "uniform":
            return self.first + u * (self.second - self.first)
        if self.law == "exponential":
            return -self.first * math.log1p(-u)
        from statistics import NormalDist

        return self.first * math.exp(self.second * NormalDist().inv_cdf(u))


NO_PAUSE = ThinkTime()


def parse_think(text: str, field: str = "--think-time") -> ThinkTime:
    """The law of think times that `text` names; ConfigError says what is allowed."""
    match = _THINK.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{field}: '{text}' is not understood, allowed: {ALLOWED_THINK}")
    value, end, mean, median, sigma = (float(group or 0) for group in match.groups())
    if match[3]:
        think = ThinkTime("exponential", mean)
    elif match[4]:
        think = ThinkTime("lognormal", median, sigma)
    elif match[2]:
        think = ThinkTime("uniform", value, end)
    else:
        think = ThinkTime("fixed", value)
    if max(value, end, mean, median) > LONGEST_THINK or sigma > MOST_SIGMA or think.empty:
        raise ConfigError(
            f"{field}: '{text}' given, allowed: 0..{LONGEST_THINK:.0f} s, sigma to {MOST_SIGMA:g}"
        )
    return think
