"""Token lengths of prompts and replies: fixed, range, normal, lognormal; seeded per request. Pure.

A length is the inverse distribution function at one uniform draw, inside the bounds: a
truncated law, without a heap at the bounds and without rejected draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from contract.errors import ConfigError
from loadgen.workload.draws import uniform

MOST = 10_000_000
ALLOWED = (
    "128, 64..512 (uniform), normal(256,64) (mean, standard deviation), lognormal(256,0.5) "
    "(median, sigma of the logarithm), the last two also within bounds: normal(256,64)[16..1024]"
)

Law = Literal["fixed", "uniform", "normal", "lognormal"]

_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_LAW = re.compile(
    rf"(normal|lognormal)\({_NUMBER},\s*{_NUMBER}\)(?:\[(\d{{1,9}})\.\.(\d{{1,9}})\])?", re.ASCII
)
_RANGE = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Lengths:
    """A law of lengths in tokens, each from `least` to `most`, both included.

    `location` and `scale` are mean and standard deviation (normal), or median and the sigma of
    the logarithm (lognormal), before truncation; `fixed` and `uniform` use the bounds alone.
    """

    law: Law
    least: int
    most: int
    location: float = 0.0
    scale: float = 0.0

    def draw(self, seed: int, purpose: str, *numbers: int) -> int:
        """Tokens for one request; `purpose` ("isl", "osl") and `numbers` name it in the run."""
        if self.least == self.most:
            return self.least
        return self._at(uniform(seed, purpose, *numbers))

    @property
    def mean(self) -> float:
        """Expected tokens, to about 1e-3 of the spread: the midpoint rule over the draw."""
        if self.law in ("fixed", "uniform"):
            return (self.least + self.most) / 2
        return self.mean_of(lambda tokens: tokens)

    def mean_of(self, function: Callable[[int], float]) -> float:
        """Expected value of a function of the tokens, by the midpoint rule."""
        parts = 2000
        return math.fsum(function(self._at((i + 0.5) / parts)) for i in range(parts)) / parts

    def _at(self, u: float) -> int:
        if self.law in ("fixed", "uniform"):
            return min(self.most, self.least + int(u * (self.most - self.least + 1)))
        from statistics import NormalDist

        z = NormalDist()
        low, high = z.cdf(self._z(self.least - 0.5)), z.cdf(self._z(self.most + 0.5))
        value = self.location, self.scale * z.inv_cdf(_inside(low + u * (high - low)))
        tokens = value[0] + value[1] if self.law == "normal" else value[0] * math.exp(value[1])
        return min(self.most, max(self.least, round(tokens)))

    def _z(self, tokens: float) -> float:
        if self.law == "normal":
            return (tokens - self.location) / self.scale
        return math.log(tokens / self.location) / self.scale


def fixed(tokens: int) -> Lengths:
    """Always the same length."""
    return Lengths("fixed", tokens, tokens)


def parse_lengths(text: str, field: str = "--isl", least: int = 1) -> Lengths:
    """The law `text` names; ConfigError says what is allowed. No length is below `least`."""
    if match := _RANGE.fullmatch(text.strip()):
        first, last = int(match[1]), int(match[2] or match[1])
        lengths = Lengths("uniform" if last > first else "fixed", first, last)
    elif match := _LAW.fullmatch(text.strip()):
        law: Law = "normal" if match[1] == "normal" else "lognormal"
        bounds = int(match[4] or least), int(match[5] or MOST)
        lengths = Lengths(law, *bounds, float(match[2]), float(match[3]))
    else:
        raise ConfigError(f"{field}: '{text}' is not understood, allowed: {ALLOWED}")
    _check(lengths, text, field, least)
    return lengths


def _check(lengths: Lengths, text: str, field: str, least: int) -> None:
    if lengths.most < lengths.least:
        raise ConfigError(f"{field}: '{text}' is empty, allowed: {ALLOWED}")
    if lengths.least < least or lengths.most > MOST:
        raise ConfigError(f"{field}: '{text}' leaves {least}..{MOST} tokens, allowed: {ALLOWED}")
    if lengths.law in ("normal", "lognormal"):
        if not lengths.scale > 0 or not lengths.location > 0:
            raise ConfigError(f"{field}: '{text}' needs both numbers above 0, allowed: {ALLOWED}")
        # Six standard deviations off, the bounded law would be made of rounding.
        if lengths._z(lengths.most + 0.5) < -6 or lengths._z(lengths.least - 0.5) > 6:
            raise ConfigError(f"{field}: '{text}' has its bounds far from its law")


def _inside(p: float) -> float:
    return min(max(p, 1e-16), 1 - 1e-16)
