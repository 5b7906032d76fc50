"""The packaged catalog: hardware, models, engines, quantizations and what is known of them."""

from __future__ import annotations

import json
import os
from typing import Any

from analysis.planner.values import Value, derived, from_catalog
from contract.errors import ConfigError, nearest

SCHEMA = 1
_PATH = os.path.join(os.path.dirname(__file__), "data", "catalog.json")


class Catalog:
    """Read access to the compiled tables; every accessor returns Values, never bare numbers."""

    def __init__(self, tables: dict[str, Any]) -> None:
        self.tables = tables
        self.reference: str = tables["reference"]

    def names(self, table: str) -> list[str]:
        """The keys of one table in the order of the sources' names."""
        return list(self.tables[table])

    def value(self, table: str, key: str, field: str) -> Value:
        """One value of one row; KeyError when the catalog has no such row."""
        return from_catalog(self.tables[table][key][field])

    def engine(self, backend: str) -> dict[str, Any]:
        """Batching, attention, device and quantizations of an engine; empty when unknown."""
        found: dict[str, Any] = self.tables["engines"].get(backend, {})
        return found

    def quality(self, model: str, quantization: str) -> Value | None:
        """The published score, or None when there is none."""
        entry = self.tables["quality"].get(f"{model}/{quantization}")
        return from_catalog(entry) if entry else None

    def memory(self, name: str) -> Value:
        """A coefficient of the memory model."""
        return from_catalog(self.tables["memory"][name])

    def sizes(self) -> list[str]:
        """The nominal sizes, smallest first."""
        known = {row["size"] for row in self.tables["models"].values()}
        return sorted(known, key=lambda size: float(size.removesuffix("b")))

    def models_of_size(self, size: str | None) -> list[str]:
        """Models of a nominal size (all for None); ConfigError when no model has it."""
        if size is None:
            return self.names("models")
        wanted = chosen("--model-size", size, self.sizes())
        return [name for name, row in self.tables["models"].items() if row["size"] == wanted]

    def bandwidth(self, hardware: str, include_disputed: bool) -> Value:
        """Memory bandwidth in GB/s; the disputed printed figure only where it is asked for."""
        row = self.tables["hardware"][hardware]
        field = "bandwidth_printed" if include_disputed and "bandwidth_printed" in row else ""
        return from_catalog(row[field or "bandwidth"])

    def speed_ratio(self, hardware: str, include_disputed: bool) -> Value:
        """How much faster than the reference a bandwidth-bound step runs: the bandwidths' ratio."""
        if hardware == self.reference:
            return Value(1.0, "ratio", "measured")
        there = self.bandwidth(hardware, include_disputed)
        here = self.bandwidth(self.reference, include_disputed)
        return derived(there.value / here.value, "ratio", there, here, at_best="extrapolated")

    def price(self, hardware: str) -> Value | None:
        """USD per hour, or None for hardware the catalog does not know."""
        known = hardware in self.tables["hardware"]
        return self.value("hardware", hardware, "hourly") if known else None


def chosen(flag: str, given: str, known: list[str]) -> str:
    """The known name equal to `given` but for case; ConfigError lists them and the nearest."""
    for name in known:
        if name.casefold() == given.strip().casefold():
            return name
    allowed = ", ".join(known)
    raise ConfigError(f"{flag}: '{given}' given, allowed: {allowed}{nearest(given, known)}")


def load_catalog() -> Catalog:
    """The catalog shipped inside the package."""
    with open(_PATH, encoding="utf-8") as file:
        return Catalog(json.load(file))
