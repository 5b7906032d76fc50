"""Levels of concurrency as people write them: `1..16`, `1..16x2`, `1..16+3`, `1,2,4`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from contract.errors import ConfigError

MOST = 100_000
ALLOWED = "1..16 (each), 1..16x2 (doubling), 1..16+3 (every third) or 1,2,4"

_PART = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9})(?:([x+])(\d{1,9}))?)?", re.ASCII)


def parse_levels(text: str, field: str = "--agents") -> tuple[int, ...]:
    """The levels `text` names, in the order written; ConfigError names what is wrong."""
    levels: list[int] = []
    for part in text.split(","):
        levels += _part(part.strip(), text, field)
    twice = sorted(level for level, times in Counter(levels).items() if times > 1)
    if twice:
        raise ConfigError(f"{field}: '{text}' names {twice[0]} twice, allowed: each level once")
    return tuple(levels)


def format_levels(levels: Sequence[int]) -> str:
    """The shortest of the notations that gives exactly these levels back."""
    if len(levels) > 2:
        first, second, last = levels[0], levels[1], levels[-1]
        rising = second > first and last > second
        candidates = [f"{first}..{last}"] if rising else []
        if rising:
            candidates.append(f"{first}..{last}+{second - first}")
        if rising and second % first == 0:
            candidates.append(f"{first}..{last}x{second // first}")
        for text in candidates:
            if parse_levels(text) == tuple(levels):
                return text
    return ",".join(str(level) for level in levels)


def _part(part: str, text: str, field: str) -> list[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ConfigError(f"{field}: '{text}' is not understood, allowed: {ALLOWED}")
    first = int(match[1])
    last = int(match[2]) if match[2] is not None else first
    step = int(match[4]) if match[4] is not None else 1
    if first < 1 or last > MOST:
        raise ConfigError(f"{field}: '{text}' leaves 1..{MOST}, allowed: {ALLOWED}")
    if last < first:
        raise ConfigError(
            f"{field}: '{text}' is empty ({first} is above {last}), allowed: {ALLOWED}"
        )
    if match[3] == "x":
        return _doubling(first, last, step, text, field)
    if step < 1:
        raise ConfigError(f"{field}: '{text}' has step {step}, allowed: a step of at least 1")
    return list(range(first, last + 1, step))


def _doubling(first: int, last: int, factor: int, text: str, field: str) -> list[int]:
    if factor < 2:
        raise ConfigError(f"{field}: '{text}' has factor {factor}, allowed: a factor of at least 2")
    levels = []
    while first <= last:
        levels.append(first)
        first *= factor
    return levels
