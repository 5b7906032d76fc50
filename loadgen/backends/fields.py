"""Fields of JSON documents that others wrote: of the wanted kind, or None. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

NANOSECOND, MILLISECOND = 1e9, 1e3  # how many make a second


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; what is none is left out."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def count(value: Any) -> int | None:
    """A whole number of at least 0."""
    return value if type(value) is int and value >= 0 else None


def text(value: Any) -> str | None:
    """A string that is not empty."""
    return value if isinstance(value, str) and value else None


def words(value: Any) -> str:
    """A string, or an empty one."""
    return value if isinstance(value, str) else ""


def seconds(value: Any, per_second: float) -> float | None:
    """A duration in some unit, of which `per_second` make a second."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / per_second if isfinite(value) and value >= 0 else None
