"""The user's own coefficients: reading and checking `fitted_models.json`."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from analysis.planner.values import CLASSES, Value
from contract.errors import DataError

SCHEMA = 1
KEY = ("model", "backend", "hardware", "quantization")

# What each law needs, with the lowest and highest value that means something.
_POSITIVE = (math.ulp(0.0), math.inf)
LAWS: dict[str, dict[str, tuple[float, float]]] = {
    "hinge": {"hinge_m": (1.0, math.inf), "service_time": _POSITIVE},
    "amdahl": {
        "throughput_n1": _POSITIVE,
        "amdahl_sigma": (0.0, 1.0),
        "service_time": _POSITIVE,
    },
    "power": {
        "throughput_n1": _POSITIVE,
        "power_alpha": (0.0, math.inf),
        "service_time": _POSITIVE,
    },
}
_TOKENS = {"output_tokens": _POSITIVE, "prompt_tokens": (0.0, math.inf)}
_OPTIONAL = ("prompt_tokens",)


class Entry(NamedTuple):
    """One fit: `key` in the order of KEY, coefficients by name, agents at the domain's end."""

    key: tuple[str, str, str, str]
    runs: tuple[str, ...]
    law: str
    coefficients: dict[str, Value]
    domain_end: float


def read_fitted(path: str) -> list[Entry]:
    """The entries of a fitted-models file.

    DataError names the file, the field, what was found and what was expected.
    """
    document = _read_json(path)
    models = document.get("models")
    if not isinstance(models, list):
        raise _unfit(path, "models", models, "a list")
    return [_entry(path, f"models[{i}]", item) for i, item in enumerate(models)]


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected what `analysis fit` writes") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: unreadable ({error}), expected JSON") from error
    if not isinstance(document, dict):
        raise _unfit(path, "document", type(document).__name__, "an object")
    if document.get("schema") != SCHEMA or isinstance(document["schema"], bool):
        raise _unfit(path, "schema", document.get("schema"), str(SCHEMA))
    return document


def _unfit(path: str, field: str, found: object, expected: str) -> DataError:
    return DataError(f"{path}: {field}: found {found!r}, expected {expected}")


def _mapping(path: str, where: str, given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _unfit(path, where, given, "an object")
    return given


def _entry(path: str, where: str, given: object) -> Entry:
    item = _mapping(path, where, given)
    key = _mapping(path, f"{where}.key", item.get("key"))
    law = _mapping(path, f"{where}.law", item.get("law")).get("name")
    if not isinstance(law, str) or law not in LAWS:
        raise _unfit(path, f"{where}.law.name", law, f"one of {', '.join(LAWS)}")
    given_coefficients = _mapping(path, f"{where}.coefficients", item.get("coefficients"))
    coefficients = {
        name: _coefficient(path, f"{where}.coefficients.{name}", given_coefficients.get(name), span)
        for name, span in {**LAWS[law], **_TOKENS}.items()
        if name in given_coefficients or name not in _OPTIONAL
    }
    return Entry(
        key=_key(path, f"{where}.key", key),
        runs=_runs(path, f"{where}.runs", item.get("runs", [])),
        law=law,
        coefficients=coefficients,
        domain_end=_domain_end(path, where, given_coefficients[next(iter(LAWS[law]))]),
    )


def _key(path: str, where: str, key: dict[str, Any]) -> tuple[str, str, str, str]:
    for name in KEY:
        if not isinstance(key.get(name), str) or not key[name]:
            raise _unfit(path, f"{where}.{name}", key.get(name), "a name")
    return key["model"], key["backend"], key["hardware"], key["quantization"]


def _runs(path: str, where: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(run, str) for run in given):
        raise _unfit(path, where, given, "a list of run ids")
    return tuple(given)


def _coefficient(path: str, where: str, given: object, span: tuple[float, float]) -> Value:
    item = _mapping(path, where, given)
    value = _number(path, f"{where}.value", item.get("value"))
    low, high = span
    if not low <= value <= high:
        expected = "above 0" if span == _POSITIVE else f"at least {low:g}"
        expected += f" and at most {high:g}" if math.isfinite(high) else ""
        raise _unfit(path, f"{where}.value", value, expected)
    bounds = [
        None if item.get(end) is None else _number(path, f"{where}.{end}", item[end])
        for end in ("low", "high")
    ]
    return _value(item, value, bounds[0], bounds[1])


def _value(item: dict[str, Any], value: float, low: float | None, high: float | None) -> Value:
    basis = item.get("class")
    source = item.get("source", [])
    holds = low is not None and high is not None and 0.0 <= low <= value <= high
    return Value(
        value=value,
        unit=str(item.get("unit", "")),
        basis=basis if basis in CLASSES else "unknown",
        source=tuple(str(each) for each in (source if isinstance(source, list) else [source])),
        low=low if holds else None,
        high=high if holds else None,
    )


def _number(path: str, where: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise _unfit(path, where, given, "a finite number")
    return float(given)


def _domain_end(path: str, where: str, coefficient: dict[str, Any]) -> float:
    """The most agents that were fitted; 1, where any law holds, when no domain is given."""
    domain = coefficient.get("domain")
    if domain is None:
        return 1.0
    if not isinstance(domain, list) or len(domain) != 2:
        raise _unfit(path, f"{where}.domain", domain, "[lowest, highest] agents")
    return max(1.0, _number(path, f"{where}.domain[1]", domain[1]))
