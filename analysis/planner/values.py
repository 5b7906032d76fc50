"""A number with its unit, class and sources: what every figure of a plan is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# From what was seen to what was assumed; a figure is as good as the worst of its inputs.
CLASSES = ("measured", "published", "fitted", "prior", "extrapolated", "unknown")


class Value(NamedTuple):
    """`basis` is one of CLASSES; `low` and `high` bound it where its fit gave an interval."""

    value: float
    unit: str
    basis: str
    source: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    disputed: str = ""

    def as_json(self) -> dict[str, Any]:
        """The JSON object of this value; absent bounds and disputes stay out of it."""
        document: dict[str, Any] = {"value": self.value, "unit": self.unit, "class": self.basis}
        document["source"] = list(self.source)
        if self.low is not None or self.high is not None:
            document.update(low=self.low, high=self.high)
        if self.disputed:
            document["disputed"] = self.disputed
        return document


def from_catalog(entry: Mapping[str, Any]) -> Value:
    """The Value of one entry of the compiled catalog."""
    return Value(
        value=float(entry["value"]),
        unit=entry["unit"],
        basis=entry["class"],
        source=(entry["source"],),
        disputed=entry.get("disputed", ""),
    )


def worst(bases: tuple[str, ...]) -> str:
    """The weakest class of several."""
    return max(bases, key=CLASSES.index)


def derived(value: float, unit: str, *inputs: Value, at_best: str = "measured") -> Value:
    """A value computed from others: their weakest class, at best `at_best`, and all sources."""
    return Value(
        value=value,
        unit=unit,
        basis=worst((at_best, *(each.basis for each in inputs))),
        source=tuple(dict.fromkeys(s for each in inputs for s in each.source)),
        disputed=next((each.disputed for each in inputs if each.disputed), ""),
    )
