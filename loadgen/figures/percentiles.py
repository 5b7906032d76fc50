"""Which percentiles a summary states, as people write them: `50,95,99.9`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from contract.errors import ConfigError

CUSTOMARY = (50.0, 95.0, 99.0)
MOST = 10
ALLOWED = f"1 to {MOST} different numbers above 0 and below 100, such as 50,95,99.9"


def parse_percentiles(
    given: str | Iterable[object], field: str = "--percentiles"
) -> tuple[float, ...]:
    """The percentiles, rising; ConfigError names what is wrong."""
    parts = given.split(",") if isinstance(given, str) else [str(part) for part in given]
    found = sorted(_percentile(part.strip(), field) for part in parts)
    names = [named(percentile) for percentile in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{field}: {twice[1:]} is given twice, allowed: {ALLOWED}")
    if not 1 <= len(found) <= MOST:
        raise ConfigError(f"{field}: {len(found)} given, allowed: {ALLOWED}")
    return tuple(found)


def named(percentile: float) -> str:
    """Its name in every table and file: `p50`, `p99.9`."""
    return f"p{percentile:.12g}"


def _percentile(part: str, field: str) -> float:
    try:
        percentile = float(part if part.isascii() and "_" not in part else "")
    except ValueError:
        raise ConfigError(f"{field}: '{part}' is not a number, allowed: {ALLOWED}") from None
    if not 0 < percentile < 100 or named(percentile) in ("p0", "p100"):
        raise ConfigError(f"{field}: {part} given, allowed: {ALLOWED}")
    return percentile
