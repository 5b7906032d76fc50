"""The user's own coefficients: reading and checking `fitted_models.json`."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from analysis.names import printable
from analysis.planner.values import CLASSES, Value
from contract.errors import DataError

SCHEMA = 1
KEY = ("model", "backend", "hardware", "quantization")

# What each law needs, with the lowest and highest value that is a server's and no slip: seconds
# from a microsecond to eleven days, and as wide for everything else.
_SECONDS = (1e-6, 1e6)
_RATE = (1e-6, 1e6)
LAWS: dict[str, dict[str, tuple[float, float]]] = {
    "hinge": {"hinge_m": (1e-3, 1e5), "service_time": _SECONDS},
    "amdahl": {
        "throughput_n1": _RATE,
        "amdahl_sigma": (0.0, 1.0),
        "service_time": _SECONDS,
    },
    "power": {
        "throughput_n1": _RATE,
        "power_alpha": (0.0, 10.0),
        "service_time": _SECONDS,
    },
}
# Absent where the server reported no usage.
_TOKENS = {"output_tokens": (1e-3, 1e7), "prompt_tokens": (0.0, 1e7)}
_AGENTS = (1.0, 1e5)


class Entry(NamedTuple):
    """One fit: `key` in the order of KEY, coefficients by name, agents at the domain's end.

    `warnings` name what in the file contradicts itself without making the fit useless.
    """

    key: tuple[str, str, str, str]
    runs: tuple[str, ...]
    law: str
    coefficients: dict[str, Value]
    domain_end: float
    warnings: tuple[str, ...] = ()


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
    except (OSError, ValueError, RecursionError) as error:
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
    read = {
        name: _coefficient(path, f"{where}.coefficients.{name}", given_coefficients.get(name), span)
        for name, span in {**LAWS[law], **_TOKENS}.items()
        if name in given_coefficients or name not in _TOKENS
    }
    outside = [name for name, value in read.items() if not _holds(value)]
    first = next(iter(LAWS[law]))
    return Entry(
        key=_key(path, f"{where}.key", key),
        runs=_runs(path, f"{where}.runs", item.get("runs", [])),
        law=law,
        coefficients={name: _without_others(value) for name, value in read.items()},
        domain_end=_domain_end(path, f"{where}.coefficients.{first}", given_coefficients[first]),
        warnings=tuple(_outside(path, f"{where}.coefficients.{n}", read[n]) for n in outside),
    )


def _key(path: str, where: str, key: dict[str, Any]) -> tuple[str, str, str, str]:
    for name in KEY:
        if not isinstance(key.get(name), str) or not key[name]:
            raise _unfit(path, f"{where}.{name}", key.get(name), "a name")
        printable(f"{path}: {where}.{name}", key[name])
    return key["model"], key["backend"], key["hardware"], key["quantization"]


def _runs(path: str, where: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(run, str) for run in given):
        raise _unfit(path, where, given, "a list of run ids")
    return tuple(printable(f"{path}: {where}[{i}]", run) for i, run in enumerate(given))


def _coefficient(path: str, where: str, given: object, span: tuple[float, float]) -> Value:
    item = _mapping(path, where, given)
    ends = (
        None if item.get(end) is None else _number(path, f"{where}.{end}", item[end], span)
        for end in ("low", "high")
    )
    basis, source = item.get("class"), item.get("source", [])
    sources = map(str, source if isinstance(source, list) else [source])
    value = _number(path, f"{where}.value", item.get("value"), span)
    low, high = ends
    return Value(
        value=value,
        unit=str(item.get("unit", "")),
        basis=basis if basis in CLASSES else "unknown",
        source=tuple(printable(f"{path}: {where}.source", each) for each in sources),
        low=low,
        high=high,
    )


def _holds(value: Value) -> bool:
    """Whether the interval, where both ends are given, holds the value."""
    return value.low is None or value.high is None or value.low <= value.value <= value.high


def _without_others(value: Value) -> Value:
    """The value without an interval that is another value's, or has one end only."""
    whole = value.low is not None and value.high is not None and _holds(value)
    return value if whole else value._replace(low=None, high=None)


def _outside(path: str, where: str, value: Value) -> str:
    return (
        f"{path}: {where}: interval [{value.low:g}, {value.high:g}] does not hold the value "
        f"{value.value:g}, so no interval is shown"
    )


def _number(path: str, where: str, given: object, span: tuple[float, float]) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise _unfit(path, where, given, "a finite number")
    low, high = span
    if not low <= given <= high:
        raise _unfit(path, where, given, f"a finite number from {low:g} to {high:g}")
    return float(given)


def _domain_end(path: str, where: str, coefficient: dict[str, Any]) -> float:
    """The most agents that were fitted; 1, where any law holds, when no domain is given."""
    domain = coefficient.get("domain")
    if domain is None:
        return 1.0
    if not isinstance(domain, list) or len(domain) != 2:
        raise _unfit(path, f"{where}.domain", domain, "[lowest, highest] agents")
    low, high = (
        _number(path, f"{where}.domain[{i}]", end, _AGENTS) for i, end in enumerate(domain)
    )
    if low > high:
        raise _unfit(path, f"{where}.domain", domain, "[lowest, highest] agents")
    return high
