"""`fitted_models.json`: what a fit found, with interval, class and source on every number.

The format is described in docs/fitted_models.md; the planner reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.fits.bootstrap import Estimate, ScalingPoint, stage_interval
from analysis.fits.scaling import LAWS
from analysis.fits.scaling_fit import ScalingFit
from analysis.table import StageRow, Table, weighted_mean
from contract.errors import DataError, FitError
from contract.rundir import replace_json

SCHEMA = 1
SPACE = "ln X(N)"
UNITS = {
    "service_time": "s",
    "throughput_n1": "requests/s",
    **{law.shape: law.unit for law in LAWS},
}
_BOOTSTRAP = "least squares in ln X(N); bootstrap over blocks of time or repetitions"
_MEAN = "mean over measured requests that ended ok"

Json = dict[str, Any]


def scaling_point(row: StageRow) -> ScalingPoint:
    """The row as the fits take it."""
    return ScalingPoint(
        agents=row.agents,
        requests_per_second=row.requests_per_second,
        block_counts=row.block_counts,
        block_seconds=row.block_seconds,
        repeat=row.repeat,
    )


def rate_interval(row: StageRow) -> Estimate | None:
    """X(N) of one stage with its 95 % t interval over blocks of time; None without requests."""
    try:
        return stage_interval(scaling_point(row))
    except FitError:
        return None


def model_entry(
    table: Table, fit: ScalingFit, used: Sequence[StageRow], reasons: Sequence[str]
) -> Json:
    """One entry of `models`: the table's key, the law, its coefficients, every point.

    `reasons` runs beside `table.levels`: why a point is left out, or "" for a used one.
    """
    common = _common(table, fit)
    return {
        "key": {
            "model": table.key.model,
            "backend": table.key.backend,
            "hardware": table.key.hardware,
            "quantization": table.key.quantization,
        },
        "runs": table.runs,
        "law": {
            "name": fit.law,
            "selected": fit.selected,
            "indistinguishable_from": list(fit.indistinguishable_from),
            "loo_error": fit.loo_error,
        },
        "coefficients": _coefficients(fit, used, common),
        "derived": _derived(fit, common),
        "points": [point(row, why) for row, why in zip(table.levels, reasons, strict=True)],
    }


def point(row: StageRow, why: str) -> Json:
    """One stage as the file and `--json` show it."""
    rate = rate_interval(row)
    return {
        "stage": row.stage,
        "agents": row.agents,
        "requests_per_second": row.requests_per_second,
        "low": rate.low if rate else None,
        "high": rate.high if rate else None,
        "requests": row.requests,
        "seconds": row.seconds,
        "mean_latency": row.mean_latency,
        "used": not why,
        "why": why,
        "note": row.note,
    }


def ceiling_reached(fit: ScalingFit) -> bool:
    """Whether a hinge's knee lies below the most agents that were tried."""
    return fit.law == "hinge" and fit.parameters["hinge_m"].value < fit.domain[1] * (1 - 1e-9)


def service_time(fit: ScalingFit, used: Sequence[StageRow], common: Json) -> Json:
    """Seconds a request holds the server when nothing else does, and how that is known.

    Hinge: 1 / ceiling. Other laws: the mean latency of a single agent, which waits for nobody;
    without that level 1 / X1, from the law.
    """
    if fit.law == "hinge":
        reached = ceiling_reached(fit)
        estimate = fit.parameters["service_time"]
        origin = "1 / ceiling" if reached else "1 / ceiling, which no stage reached: an upper limit"
        kind = "fitted" if reached else "extrapolated"
        return {**_estimate("service_time", estimate, common, kind), "from": origin}
    alone = [row for row in used if row.agents == 1 and row.mean_latency is not None]
    latency = weighted_mean(alone, "mean_latency")
    if latency is None:
        x1 = fit.parameters["throughput_n1"]
        inverse = Estimate(1 / x1.value, 1 / x1.high, 1 / x1.low)
        estimated = _estimate("service_time", inverse, common, "extrapolated")
        return {**estimated, "from": "1 / X1 of the law"}
    return {
        "from": "mean latency at one agent",
        **_measured(latency, "s", alone, common),
        **_latency_bounds(latency, alone),
    }


def _latency_bounds(latency: float, alone: Sequence[StageRow]) -> Json:
    """One agent without think time completes 1 / latency per second: the same relative interval."""
    rates = [rate for rate in map(rate_interval, alone) if rate is not None and rate.low > 0]
    if not rates:
        return {"low": None, "high": None}
    widest = max(rates, key=lambda rate: rate.high / rate.low)
    return {
        "low": latency * widest.value / widest.high,
        "high": latency * widest.value / widest.low,
        "method": "mean latency at one agent; t interval over blocks of time",
    }


def _coefficients(fit: ScalingFit, used: Sequence[StageRow], common: Json) -> Json:
    coefficients = {
        name: _estimate(name, estimate, common, _class(name, fit))
        for name, estimate in fit.parameters.items()
        if not (fit.law == "hinge" and name in ("throughput_n1", "service_time"))
    }
    coefficients["service_time"] = service_time(fit, used, common)
    for name in ("output_tokens", "prompt_tokens"):
        mean = weighted_mean(used, f"mean_{name}")
        if mean is not None and (mean > 0 or name == "prompt_tokens"):
            coefficients[name] = _measured(mean, "tokens", used, common)
    return coefficients


def _derived(fit: ScalingFit, common: Json) -> Json:
    x1 = fit.parameters["throughput_n1"]
    if fit.law == "hinge":
        kind = _class("throughput_n1", fit)
        return {
            "throughput_n1": {
                **_estimate("throughput_n1", x1, common, kind),
                "from": "1 / (service_time * hinge_m)",
            }
        }
    sigma = fit.parameters.get("amdahl_sigma")
    if sigma is None or sigma.value <= 0:
        return {}
    ceiling = {
        "value": x1.value / sigma.value,
        "unit": "requests/s",
        "class": "extrapolated",
        "from": "throughput_n1 / amdahl_sigma",
    }
    return {"ceiling": {**ceiling, **common}}


def _class(name: str, fit: ScalingFit) -> str:
    return "extrapolated" if name == "throughput_n1" and fit.domain[0] > 1 else "fitted"


def _common(table: Table, fit: ScalingFit) -> Json:
    return {
        "domain": list(fit.domain),
        "n": fit.n,
        "source": [f"run:{run}" for run in table.runs],
        "read_from": table.source,
    }


def _estimate(name: str, estimate: Estimate, common: Json, kind: str) -> Json:
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "one_sided": bool(estimate.one_sided),
        "unit": UNITS[name],
        "space": SPACE,
        "class": kind,
        "method": _BOOTSTRAP,
        **common,
    }


def _measured(value: float, unit: str, rows: Sequence[StageRow], common: Json) -> Json:
    return {
        "value": value,
        "low": None,
        "high": None,
        "confidence": 0.95,
        "unit": unit,
        "space": None,
        "class": "measured",
        "method": _MEAN,
        **common,
        "n": sum(row.requests for row in rows),
    }


def write(path: Path, entry: Json, created_unix: float) -> None:
    """Replace `path` by a document with this one entry, atomically; what is no regular file
    (/dev/stdout, a pipe) is written to instead. DataError when it cannot be written; ValueError
    (our own bug) on a number that is not finite."""
    document = {"schema": SCHEMA, "created_unix": created_unix, "models": [entry]}
    if not os.path.exists(path) or os.path.isfile(path):
        return replace_json(path, document)
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
