"""A run in figures: the table by N, and `summary.json` with the definitions of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from contract.records import Manifest, Stage
from contract.steady import quantile
from contract.text_table import render
from contract.words import number_of, one_line
from loadgen.figures.durations import Durations
from loadgen.figures.goodput import attainment
from loadgen.figures.percentiles import CUSTOMARY, named
from loadgen.figures.tally import Part, Tally

DEFINITIONS = {
    "window": "a stage counts what completed inside [start, end); warm-up and drain never count",
    "requests_per_second": "requests that ended ok in the window / (end - start)",
    "output_tokens_per_second": "their generated tokens / (end - start)",
    "e2e": "last_token - due, seconds; due is the instant the agent was ready to ask",
    "ttft": "first_token - due, seconds; headers, role-only and empty chunks are not a token",
    "ttft_answer": "first_answer - due, seconds: the first content after reasoning, only of "
    "requests that reasoned before they answered; ttft counts reasoning as content",
    "tpot": "(last_token - first_token) / (output_tokens - 1), seconds, per request",
    "itl": "gaps between tokens, seconds; only from requests in which every chunk was one token",
    "icl": "gaps between chunks, seconds",
    "tokens_per_chunk": "generated tokens / chunks with content",
    "send_lag": "sent - due, seconds: the generator's own lateness",
    "loop_lag": "how late the generator's event loop answered a kernel timer of 3.7 ms, every "
    "expiration counted, seconds to three significant figures",
    "generator": "the load generator's own error: declared is its bound for the p99 of the error "
    "of a first token and of a gap, seconds",
    "goodput": "requests that met every objective / (end - start); failures count against the "
    "share; itl is (last - first token) / (chunks - 1) per request",
    "most_often": "the commonest error of the window's requests that did not end ok",
    "in_flight": "time average over the window of requests between due and ended",
    "addresses": "of several servers each one's measured requests, by the same definitions; those "
    "that were never sent are nobody's",
    "quantiles": "linear interpolation between order statistics of the pooled values",
}
LAG_PERCENTILE = 99.0
LONG_ERROR = 120  # characters of a server's words in a table


def stage_summary(
    stage: Stage,
    tally: Tally,
    percentiles: Sequence[float] = CUSTOMARY,
    loop_lags: Durations | None = None,
    addresses: Sequence[str] = (),
) -> dict[str, Any]:
    """One stage as plain numbers; what was not seen is None, and of loop lags that no record
    holds the verdict's figure is all there is. Lags state the p99 that verdicts look at, too.
    `addresses` are those of several servers."""
    of_lags = sorted({*percentiles, LAG_PERCENTILE})
    seconds = stage.end - stage.start
    ok = tally.outcomes["ok"]

    def mean(count: int | None, over: int) -> float | None:
        return count / over if over and count is not None else None

    return {
        "stage": stage.stage,
        "agents": stage.key.agents,
        "request_rate": stage.key.request_rate,
        "level": stage.key.level,
        "repeat": stage.key.repeat,
        "complete": stage.complete,
        "good": stage.good,
        "seconds": seconds,
        "sent": stage.sent,
        "outcomes": stage.outcomes,
        "most_often": _most_often(tally),
        "requests_per_second": _rate(ok, seconds),
        "output_tokens_per_second": _rate(tally.output_tokens, seconds),
        "prompt_tokens_mean": mean(tally.prompt_tokens, ok),
        "output_tokens_mean": mean(tally.output_tokens, ok),
        "tokens_per_chunk": mean(tally.output_tokens, tally.chunks),
        "in_flight": tally.in_flight(stage.start, stage.end),
        "goodput": _goodput(tally, seconds),
        "ttft": _spread(tally.ttfts, percentiles),
        "ttft_answer": _spread(tally.answer_ttfts, percentiles),
        "tpot": _spread(tally.tpots, percentiles),
        "itl": _spread(tally.token_gaps, percentiles),
        "icl": _spread(tally.chunk_gaps, percentiles),
        "e2e": _spread(tally.latencies, percentiles),
        "send_lag": _spread(tally.send_lags, of_lags),
        "loop_lag": _spread(loop_lags or (), of_lags) or _kept(stage, "loop_lag"),
        "generator": None if stage.generator is None else asdict(stage.generator),
        "verdicts": [
            {"name": v.name, "ok": v.ok, "checked": v.checked, "says": v.says}
            for v in stage.verdicts
        ],
        **({"addresses": _parts(tally, addresses, seconds, percentiles)} if addresses else {}),
    }


def _most_often(tally: Tally) -> dict[str, Any] | None:
    """Why most requests of the window that were not ok were not."""
    return next(({"error": e, "requests": n} for e, n in tally.reasons.most_common(1)), None)


def _parts(
    tally: Tally, addresses: Sequence[str], seconds: float, percentiles: Sequence[float]
) -> list[dict[str, Any]]:
    """What each of several servers did."""
    parts = [tally.parts.get(place) or Part() for place in range(len(addresses))]
    return [
        {
            "address": address,
            "requests": sum(part.outcomes.values()),
            "ok": part.outcomes["ok"],
            "outcomes": {name: n for name, n in part.outcomes.items() if n},
            "requests_per_second": _rate(part.outcomes["ok"], seconds),
            "output_tokens_per_second": _rate(part.output_tokens, seconds),
            "ttft": _spread(part.ttfts, percentiles),
            "e2e": _spread(part.latencies, percentiles),
        }
        for address, part in zip(addresses, parts, strict=True)
    ]


def _rate(count: int | None, seconds: float) -> float | None:
    return count / seconds if seconds > 0 and count is not None else None


def _goodput(tally: Tally, seconds: float) -> dict[str, Any] | None:
    """Requests per second that met the objectives, and their share with its 95 % interval."""
    total = sum(tally.outcomes.values())
    if tally.objectives is None or not total:
        return None
    seen = attainment(tally.met, total)
    return {
        "objectives": str(tally.objectives),
        "met": seen.met,
        "total": seen.total,
        "share": seen.share,
        "low": seen.low,
        "high": seen.high,
        "requests_per_second": _rate(tally.met, seconds),
    }


def run_summary(manifest: Manifest, stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The document of `summary.json`."""
    return {
        "schema": manifest.schema,
        "run": manifest.run,
        "status": manifest.status,
        "model": manifest.model,
        "server": manifest.server,
        "hardware": manifest.hardware,
        "definitions": DEFINITIONS,
        "stages": list(stages),
    }


def table(stages: Sequence[dict[str, Any]]) -> str:
    """The final tables by N, and below them every verdict that failed."""
    rates = ["agents", "ok/total", "req/s", "tok/s", "in flight", "send lag", "loop lag", "verdict"]
    shown, stated = _shown(stages), _stated(stages)
    doubts = [
        f"  {stage['level']}: {verdict['name']}: {verdict['says']}"
        for stage in stages
        for verdict in stage["verdicts"]
        if verdict["checked"] and not verdict["ok"]
    ]
    outcomes = [
        f"  {stage['level']}: not ok: {failed}{_because(stage.get('most_often'))}"
        for stage in stages
        if (failed := _not_ok(stage["outcomes"]))
    ]
    goodput = [
        f"  {stage['level']}: goodput {_met(good)}"
        for stage in stages
        if (good := stage["goodput"])
    ]
    blocks = [
        render(rates, [_rates(stage) for stage in stages]),
        *outcomes,
        *doubts,
        *goodput,
        "",
        f"milliseconds, {'/'.join(stated)}; the lags above are {named(LAG_PERCENTILE)}",
        render(["agents", *shown.values()], [_spreads(stage, shown, stated) for stage in stages]),
        *_by_address(stages, stated),
    ]
    return "\n".join(blocks)


def _by_address(stages: Sequence[dict[str, Any]], stated: Sequence[str]) -> list[str]:
    """The table of a run on several servers, and how their requests failed."""
    parts = [(stage, part) for stage in stages for part in stage.get("addresses", ())]
    if not parts:
        return []
    header = ["agents", "address", "ok/total", "req/s", "tok/s", "TTFT", "e2e"]
    failed = [
        f"  {stage['level']}: {part['address']}: not ok: {_not_ok(part['outcomes'])}"
        for stage, part in parts
        if part["ok"] < part["requests"]
    ]
    rows = [_part_row(stage, part, stated) for stage, part in parts]
    return ["", f"by address; milliseconds, {'/'.join(stated)}", render(header, rows, 2), *failed]


def _part_row(stage: dict[str, Any], part: dict[str, Any], stated: Sequence[str]) -> list[str]:
    return [
        _level(stage),
        part["address"],
        f"{part['ok']}/{part['requests']}",
        _number(part["requests_per_second"]),
        _number(part["output_tokens_per_second"]),
        *("/".join(_ms(part[name], p) for p in stated) for name in ("ttft", "e2e")),
    ]


def _met(good: dict[str, Any]) -> str:
    share = f"{good['share']:.1%} of {good['total']} ({good['low']:.1%} to {good['high']:.1%})"
    return f"{good['objectives']}: {_number(good['requests_per_second'])} requests/s, {share}"


def _level(stage: dict[str, Any]) -> str:
    rate = stage["request_rate"]
    level = str(stage["agents"]) if rate is None else f"{rate:.3g}/s"
    return level + (f" #{stage['repeat'] + 1}" if stage["repeat"] else "")


def _rates(stage: dict[str, Any]) -> list[str]:
    failed = [v["name"] for v in stage["verdicts"] if v["checked"] and not v["ok"]]
    doubts = ["cut short"] * (not stage["complete"]) + [f"failed {', '.join(failed)}"] * bool(
        failed
    )
    return [
        _level(stage),
        f"{stage['outcomes'].get('ok', 0)}/{sum(stage['outcomes'].values())}",
        _number(stage["requests_per_second"]),
        _number(stage["output_tokens_per_second"]),
        _number(stage["in_flight"]),
        *(_ms(stage[name], named(LAG_PERCENTILE)) for name in ("send_lag", "loop_lag")),
        "; ".join(doubts) or "ok",
    ]


def _stated(stages: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the percentiles that stages state, those of the first one that saw anything."""
    seen = next((stage["e2e"] for stage in stages if stage["e2e"]), map(named, CUSTOMARY))
    return [name for name in seen if name.startswith("p")]


def _shown(stages: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The spreads of the table and their titles; the answer's only where something reasoned."""
    shown = {"ttft": "TTFT", "ttft_answer": "to answer", "tpot": "TPOT", "itl": "ITL", "e2e": "e2e"}
    if not any(stage["ttft_answer"] for stage in stages):
        del shown["ttft_answer"]
    return shown


def _spreads(stage: dict[str, Any], names: Iterable[str], stated: Sequence[str]) -> list[str]:
    columns = (stage[name] for name in names)
    return [_level(stage), *("/".join(_ms(spread, p) for p in stated) for spread in columns)]


def _spread(
    values: Sequence[float] | Durations, percentiles: Sequence[float]
) -> dict[str, float] | None:
    if not values:
        return None
    shares = [percentile / 100 for percentile in percentiles]
    if isinstance(values, Durations):
        mean, quantiles = values.mean or 0.0, values.quantiles(shares)
    else:
        mean, ordered = sum(values) / len(values), sorted(values)
        quantiles = [quantile(ordered, share) for share in shares]
    names = map(named, percentiles)
    seen = {name: value or 0.0 for name, value in zip(names, quantiles, strict=True)}
    return {"mean": mean, **seen, "n": len(values)}


def _kept(stage: Stage, name: str) -> dict[str, float] | None:
    """The p99 that a verdict saw, where the readings themselves are gone."""
    seen = [v.seen for v in stage.verdicts if v.name == name and v.seen is not None]
    return {"p99": seen[0]} if seen else None


def _ms(spread: dict[str, float] | None, name: str) -> str:
    return "-" if spread is None else _number(spread[name] * 1e3)


def _number(value: float | None) -> str:
    """Three significant figures, without exponent."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _because(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    error, times = one_line(found["error"]), number_of(found["requests"], "time")
    shown = error if len(error) <= LONG_ERROR else f"{error[:LONG_ERROR]}…"
    return f"; most often, {times}: {shown}"


def _not_ok(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in outcomes.items() if name != "ok" and n)
