"""What `analysis fit` prints: the points, the law with its doubts, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from analysis.fits.scaling import LAWS
from analysis.fits.scaling_fit import ScalingFit
from analysis.fitted import ceiling_reached, point, rate_interval
from analysis.queueing import md1_sojourn_quantile
from analysis.table import StageRow, Table

UTILISATIONS = (0.3, 0.5, 0.7, 0.9)
QUANTILES = (0.50, 0.95, 0.99)
_FORMULAS = {law.name: law.formula for law in LAWS}

Json = dict[str, Any]


def points(table: Table, reasons: Sequence[str]) -> str:
    """The stages as a text table, one line each."""
    key = table.key
    head = f"{key.model} on {key.backend}, {key.hardware}, {key.quantization}"
    columns = ["agents", "requests", "X requests/s", "95 % interval", "mean latency", "used"]
    rows = [_cells(row, why) for row, why in zip(table.levels, reasons, strict=True)]
    unchecked = any(row.verdicts is None for row in table.levels)
    source = f"{table.source}; it holds no verdicts" if unchecked else table.source
    title = f"{head}\nrun {', '.join(table.runs)} ({source})"
    return f"{title}\n\n{_aligned([columns, *rows])}"


def _cells(row: StageRow, why: str) -> list[str]:
    rate = rate_interval(row)
    return [
        str(row.agents or "-"),
        str(row.requests),
        f"{row.requests_per_second:.4g}",
        _span(rate.low, rate.high) if rate else "-",
        _seconds(row.mean_latency),
        f"no: {why}" if why else "; ".join(filter(None, ["yes", row.note])),
    ]


def _span(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g} s"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns, the last one left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*(cell.rjust(w) for cell, w in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in rows
    ]
    return "\n".join(f"  {line}" for line in lines)


def points_json(table: Table, reasons: Sequence[str]) -> str:
    """The points alone, for a run that carries no fit."""
    shown = [point(row, why) for row, why in zip(table.levels, reasons, strict=True)]
    return _dump({**_origin(table), "points": shown})


def result_json(table: Table, fit: ScalingFit, entry: Json, output: str) -> str:
    """The written entry with what the text report adds to it."""
    del fit
    latencies = latency_rows(entry["coefficients"]["service_time"]["value"])
    return _dump({"output": output, **_origin(table), **entry, "latency": latencies})


def _origin(table: Table) -> Json:
    return {
        "runs": table.runs,
        "read_from": table.source,
        "missing": table.missing,
        "warnings": table.warnings,
    }


def _dump(document: Json) -> str:
    return json.dumps(document, indent=1, allow_nan=False)


def result(table: Table, fit: ScalingFit, entry: Json, output: str) -> str:
    """Law, coefficients, doubts, latency under random arrivals, limits, and the file."""
    del table
    sections = [
        _law(fit, entry),
        _service(entry),
        _limits(fit),
        f"written: {output}",
    ]
    return "\n" + "\n\n".join(sections)


def _law(fit: ScalingFit, entry: Json) -> str:
    choice = "chosen" if fit.selected else "assumed: three levels cannot choose a law"
    lines = [f"law: {fit.law} ({choice})    {_FORMULAS[fit.law]}"]
    shown = {**entry["derived"], **entry["coefficients"]}
    lines.append(_aligned([_coefficient(name, value) for name, value in shown.items()]))
    if fit.loo_error:
        errors = ", ".join(f"{law} {100 * error:.1f} %" for law, error in fit.loo_error.items())
        lines.append(f"error at a level left out: {errors}")
    if fit.indistinguishable_from:
        lines.append(f"these points cannot tell it from: {', '.join(fit.indistinguishable_from)}")
    return "\n".join(lines)


def _coefficient(name: str, value: Json) -> list[str]:
    low, high = value.get("low"), value.get("high")
    bounds = "-" if low is None or high is None else f"[{_span(low, high)}]"
    note = ", on its bound" if value.get("one_sided") else ""
    return [name, f"{value['value']:.4g} {value['unit']}", bounds, f"{value['class']}{note}"]


def _service(entry: Json) -> str:
    service = entry["coefficients"]["service_time"]
    head = f"service time {service['value']:.4g} s ({service['class']}: {service['from']})"
    title = "latency of one server taking random arrivals one at a time (M/D/1, exact):"
    columns = ["utilisation", "requests/s", "p50", "p95", "p99"]
    rows = [
        [
            f"{row['utilisation']:.0%}",
            f"{row['requests_per_second']:.4g}",
            *(_seconds(row[f"p{100 * q:.0f}"]) for q in QUANTILES),
        ]
        for row in latency_rows(service["value"])
    ]
    return f"{head}\n{title}\n{_aligned([columns, *rows])}"


def latency_rows(service_time: float) -> list[dict[str, float]]:
    """Exact M/D/1 sojourn quantiles, seconds, at each of UTILISATIONS."""
    return [
        {
            "utilisation": rho,
            "requests_per_second": rho / service_time,
            **{f"p{100 * q:.0f}": md1_sojourn_quantile(rho, service_time, q) for q in QUANTILES},
        }
        for rho in UTILISATIONS
    ]


def _limits(fit: ScalingFit) -> str:
    low, high = fit.domain
    text = f"holds for {low} to {high} agents, as far as was tried; beyond, it is extrapolated"
    if fit.law == "hinge" and not ceiling_reached(fit):
        text += f"\nthroughput still grows at {high} agents: the ceiling is not known"
    return text
