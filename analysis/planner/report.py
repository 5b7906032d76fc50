"""The answer, as JSON and as plain text: figures, sources, what was dropped and what would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from analysis.capacity import SECONDS_PER_MONTH, cost_per_1m
from analysis.planner.candidates import Asked, Candidate
from analysis.planner.memory import GIB
from analysis.planner.relax import Advice
from analysis.planner.search import Miss, Plan
from analysis.planner.values import Value, derived

BUSY = 0.7
GATES = ("vram", "quality", "latency", "budget")
_NO_ROOM = "no GPU of the catalog has room for one such sequence, fewer --prompt-tokens need less"


class Answer(NamedTuple):
    """What the search found: plans that fit, best first, and those that do not, nearest first;
    disputed rows left out; what to change where nothing fits; warnings that hold for all of it."""

    fitting: list[Plan]
    missing: list[Plan]
    left_out: list[dict[str, str]]
    advice: Advice | None
    warnings: tuple[str, ...] = ()


def figures(plan: Plan, asked: Asked) -> dict[str, Value]:
    """Every figure of one plan by name; what is not known is absent."""
    candidate = plan.candidate
    optional = {
        "peak_tokens_per_second": candidate.peak_tokens,
        "single_stream": candidate.pace,
        "vram_bytes": candidate.memory,
        "vram_limit_bytes": candidate.memory_limit,
        "quality": candidate.quality,
        "context_tokens": candidate.context,
        "hourly_usd": candidate.hourly,
    }
    found = {name: value for name, value in optional.items() if value is not None}
    return {**found, **_under_load(plan), **_money(plan, asked)}


def _under_load(plan: Plan) -> dict[str, Value]:
    candidate, load = plan.candidate, plan.load
    if load is None:
        return {}
    at_best = "extrapolated" if _beyond(candidate, load.in_flight) else "measured"
    values = {
        "utilisation": (load.utilisation, "ratio"),
        "in_flight": (load.in_flight, "sequences"),
        "p95_seconds": (load.p95, "s"),
    }
    speed = candidate.speed
    found = {
        name: derived(value, unit, speed, at_best=at_best) for name, (value, unit) in values.items()
    }
    p95 = found["p95_seconds"]._replace(low=plan.p95_low, high=plan.p95_high)
    return {**found, "p95_seconds": p95}


def _beyond(candidate: Candidate, in_flight: float) -> bool:
    """More in flight than the step time was fitted for."""
    return candidate.batch_limit > 1 and in_flight > candidate.domain


def _money(plan: Plan, asked: Asked) -> dict[str, Value]:
    candidate, hourly, peak = plan.candidate, plan.candidate.hourly, plan.candidate.peak_tokens
    if hourly is None or plan.monthly is None:
        return {}
    found = {"monthly_usd": derived(plan.monthly, "USD/month", hourly, candidate.speed)}
    if peak is None or candidate.output_tokens is None:
        return found
    usd = cost_per_1m(peak.value, hourly.value).usd_per_1m if hourly.value else 0.0
    tokens = asked.rate * candidate.output_tokens * SECONDS_PER_MONTH
    at_rate = plan.monthly / tokens * 1e6
    return {
        **found,
        "usd_per_1m_tokens_at_peak": derived(usd, "USD/1e6 token", hourly, peak),
        "usd_per_1m_tokens_at_rate": derived(at_rate, "USD/1e6 token", hourly, peak),
    }


def warnings_of(plan: Plan) -> list[str]:
    """What a buyer of this plan should know."""
    candidate, load = plan.candidate, plan.load
    said = list(candidate.assumptions)
    if load is not None and load.utilisation > BUSY:
        said.append(f"utilisation {load.utilisation:.2f} is above {BUSY}: p95 rises steeply")
    if load is not None and candidate.batch_limit > 1 and load.in_flight > candidate.domain:
        said.append(
            f"{load.in_flight:.1f} sequences in flight, measured up to {candidate.domain:g}"
        )
    if plan.monthly is None and not plan.misses:
        said.append(f"price of {candidate.hardware} unknown, budget not judged (--hourly-usd)")
    if candidate.size_unknown:
        said.append(f"size of {candidate.model} unknown, --model-size not judged")
    if candidate.quality is None:
        said.append("quality unknown")
    return said


def plan_json(plan: Plan, asked: Asked) -> dict[str, Any]:
    """One plan as a JSON object; every figure an object of value, unit, class and source."""
    candidate = plan.candidate
    return {
        "model": candidate.model,
        "backend": candidate.backend,
        "quantization": candidate.quantization,
        "hardware": candidate.hardware,
        "replicas": plan.replicas,
        "batch_limit": candidate.batch_limit,
        "output_tokens": candidate.output_tokens,
        "runs": list(candidate.runs),
        **{name: value.as_json() for name, value in figures(plan, asked).items()},
        "budget_judged": plan.monthly is not None,
        "warnings": warnings_of(plan),
        "misses": [_miss_json(miss) for miss in plan.misses],
    }


def _miss_json(miss: Miss) -> dict[str, str]:
    return {"gate": miss.gate, "why": miss.text, "relax": f"{miss.flag}: {miss.would_do}"}


def document(answer: Answer, asked: Asked, shown: Sequence[Plan]) -> dict[str, Any]:
    """The whole answer as one JSON object; `shown` are the candidates that go into it."""
    nearest, hints = answer.advice or (None, ())
    return {
        "asked": asked._asdict(),
        "candidates": [plan_json(plan, asked) for plan in shown],
        "dropped": {gate: [_dropped(p, gate) for p in _at(answer.missing, gate)] for gate in GATES},
        "disputed_left_out": answer.left_out,
        "nearest_miss": None if nearest is None else plan_json(nearest, asked),
        "relax": list(hints),
        "warnings": list(answer.warnings),
    }


def _at(missing: Iterable[Plan], gate: str) -> list[Plan]:
    """Plans whose first failed gate this is: each is counted once."""
    return [plan for plan in missing if plan.misses[0].gate == gate]


def _dropped(plan: Plan, gate: str) -> dict[str, str]:
    why = next(miss.text for miss in plan.misses if miss.gate == gate)
    return {"what": plan.candidate.name, "why": why}


def nothing_fits(answer: Answer) -> str:
    """The one line when nothing fits: the nearest miss and what to relax."""
    nearest, hints = answer.advice or (None, ())
    if nearest is None:
        disputed = "disputed rows were left out, --include-disputed admits them"
        said = ", or ".join(hints) or (disputed if answer.left_out else "")
        line = "nothing known for this combination of filters, widen them"
    else:
        why = ", ".join(miss.text for miss in nearest.misses)
        line = f"nothing fits; nearest miss: {nearest.candidate.name}: {why}"
        said = ", or ".join(hints) or _NO_ROOM
    return f"{line}; {said}" if said else line


HEADER = (
    "#", "model", "engine", "weights", "hardware", "R", "USD/month", "p95 ms", "busy",
    "quality", "tok/s", "USD/1M", "class",
)  # fmt: skip


def text_report(answer: Answer, asked: Asked, top: int) -> str:
    """The answer for a terminal: the best `top`, every own fit, what was dropped and why."""
    fitting = answer.fitting
    best = [p for i, p in enumerate(fitting) if i < top or p.candidate.runs]
    shown = list(enumerate(best, 1))
    rows = [HEADER, *(_row(number, plan, asked) for number, plan in shown)]
    lines = [*_table(rows), ""]
    for number, plan in shown:
        lines += _footnote(number, plan, asked)
    if len(fitting) > len(best):
        lines.append(f"{len(fitting) - len(best)} more fit: --top {len(fitting)}")
    lines += _dropped_lines(answer.missing)
    lines += [f"left out as disputed: {each['what']}: {each['why']}" for each in answer.left_out]
    lines.append("R replicas share the rate evenly; tok/s and USD/1M are one replica's at its peak")
    return "\n".join(lines) + "\n"


def _row(number: int, plan: Plan, asked: Asked) -> tuple[str, ...]:
    candidate, found = plan.candidate, figures(plan, asked)
    money = "?" if plan.monthly is None else f"{plan.monthly:.2f}"
    per_1m, peak = found.get("usd_per_1m_tokens_at_peak"), candidate.peak_tokens
    quality = candidate.quality
    return (
        str(number), candidate.model, candidate.backend, candidate.quantization,
        candidate.hardware, str(plan.replicas), money, _milliseconds(found["p95_seconds"]),
        f"{found['utilisation'].value:.2f}", "?" if quality is None else f"{quality.value:.3f}",
        "?" if peak is None else f"{peak.value:.1f}",
        "?" if per_1m is None else f"{per_1m.value:.3f}", found["p95_seconds"].basis,
    )  # fmt: skip


def _milliseconds(value: Value) -> str:
    centre = f"{value.value * 1e3:.0f}"
    if value.low is None and value.high is None:
        return centre
    low, high = ("?" if end is None else f"{end * 1e3:.0f}" for end in (value.low, value.high))
    return f"{centre} ({low}..{high})"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    padded = ("  ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)) for r in rows)
    return [line.rstrip() for line in padded]


def _footnote(number: int, plan: Plan, asked: Asked) -> list[str]:
    candidate = plan.candidate
    lines = [f"[{number}] speed: {'; '.join(candidate.speed.source)}"]
    if candidate.runs:
        lines[0] += f" (runs {', '.join(candidate.runs)})"
    lines += _lengths(candidate, asked)
    if candidate.memory is not None and candidate.memory.high is not None:
        expected, upper = candidate.memory.value / GIB, candidate.memory.high / GIB
        lines.append(f"    memory {expected:.1f} GiB, up to {upper:.1f}; {_batch_text(candidate)}")
    return lines + [f"    {each}" for each in warnings_of(plan)]


def _lengths(candidate: Candidate, asked: Asked) -> list[str]:
    """What an own fit's requests were like where they differ from what was asked."""
    output, context = candidate.output_tokens, candidate.context
    said = []
    if output is not None and output != asked.output_tokens:
        said.append(f"    at its own {output:g} output tokens, as measured")
    if output is not None and context is not None:
        said.append(f"    context {context.value:g} tokens, {context.value - output:g} of prompt")
    return said


def _batch_text(candidate: Candidate) -> str:
    return f"room for {candidate.batch_limit} in flight" if candidate.batch_limit > 1 else "1 slot"


def _dropped_lines(missing: list[Plan]) -> list[str]:
    lines = []
    for gate in GATES:
        here = _at(missing, gate)
        if here:
            first = _dropped(here[0], gate)
            lines.append(f"dropped by {gate}: {len(here)}; nearest {first['what']}: {first['why']}")
    return lines
