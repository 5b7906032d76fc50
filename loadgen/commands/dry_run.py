"""`--dry-run`: what a run would do, in figures, and its first request as it would go out.

No server is asked and nothing is written. The words by which a prompt is told from those of
other runs are another run's every time; here they are those of a run that never was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from contract.text_table import render
from contract.words import number_of
from loadgen.commands.expected import Ahead, PerRequest, per_request, stages_ahead
from loadgen.config import RunConfig
from loadgen.engine import Source, StagePlan
from loadgen.stopwatch import Ids
from loadgen.workload.build import source_of
from loadgen.workload.lengths import parse_lengths

if TYPE_CHECKING:
    from loadgen.backends.settings import WireSettings

ONLY_ONE = "(the only model there)"
FIRST = Ids("RUN", stage=1, agents=0, agent=0, seq=0)
MOST_SHOWN = 100_000  # prompt tokens of the first request that are made at all
LONG_TEXT = 240  # characters of a text beyond which the screen shows its beginning
HEADER = ["stage", "load", "warm-up", "window", "requests", "prompt tokens", "output tokens"]


def show(config: RunConfig, *, as_json: bool, search: dict[str, Any] | None = None) -> int:
    """Print the plan; ConfigError and DataError as the run itself would raise them.

    A `search` knows its first stage alone, and the most it may drive.
    """
    source = source_of(config, 0, None)
    each = per_request(config, source)
    stages = stages_ahead(config, source, each)[: None if search is None else 1]
    shown = shortened(config)
    request = first_request(config, source if shown is config else source_of(shown, 0, None))
    if shown is not config:
        request["prompt_tokens_shown"] = MOST_SHOWN
    if as_json:
        plan = document(config, each, stages, request)
        print(json.dumps(plan if search is None else {**plan, "search": search}))
    else:
        print("\n".join([*heading(config, stages, search), *lines(config, each, stages, request)]))
    return 0


def document(
    config: RunConfig, each: PerRequest, stages: Sequence[Ahead], request: dict[str, Any]
) -> dict[str, Any]:
    """The plan as plain numbers; None is what only the server decides."""
    seconds, rounds = duration(stages)
    return {
        "backend": config.backend.kind,
        "model": config.model,
        "stages": [_plain(stage) for stage in stages],
        "seconds": _finite(seconds),
        "rounds": rounds,
        "requests": _sum([stage.requests for stage in stages]),
        "prompt_tokens": _sum([stage.prompt_tokens for stage in stages]),
        "output_tokens": _sum([stage.output_tokens for stage in stages]),
        "reset_cache": config.reset_cache,
        "per_request": {
            "prompt_tokens": each.prompt_tokens,
            "output_tokens": each.output_tokens,
            "from": each.says,
        },
        "request": request,
    }


def heading(config: RunConfig, stages: Sequence[Ahead], search: dict[str, Any] | None) -> list[str]:
    """What is driven, and how many stages of it."""
    what = f"{_model(config)} on {config.backend.kind}"
    if search is None:
        return [f"{what}, {number_of(len(stages), 'stage')}"]
    levels = ", ".join(f"{level:g}" for level in search["levels"])
    return [
        f"{what}: the most {search['unit']} at which {search['attainment']:g} of the requests "
        f"meet {search['goodput']}",
        f"{levels} as long as they are met, then halving what lies between, down to "
        f"{search['step']:g}: {number_of(search['most_stages'], 'stage')} at most; the first:",
    ]


def lines(
    config: RunConfig, each: PerRequest, stages: Sequence[Ahead], request: dict[str, Any]
) -> list[str]:
    """Stages, what they take and the first request, for a reader."""
    prompt = _sum([stage.prompt_tokens for stage in stages])
    output = _sum([stage.output_tokens for stage in stages])
    totals = (
        "how many requests the server completes decides the rest"
        if prompt is None or output is None
        else f"{prompt:,.0f} and {output:,.0f} in all"
    )
    return [
        "",
        render(HEADER, [_row(stage) for stage in stages], left=4),
        "",
        f"duration: {_lasting(*duration(stages), config.grace_period)}",
        *(["before every stage: the prefix cache is reset"] if config.reset_cache else []),
        f"tokens: {each.prompt_tokens:.6g} of prompt and {each.output_tokens:.6g} of output a "
        f"request ({each.says}); {totals}",
        "",
        f"first request{_cut(request)}:",
        *_shown(request),
        "",
        "no server was asked, nothing was written",
    ]


def duration(stages: Sequence[Ahead]) -> tuple[float, float]:
    """Seconds known beforehand, and how many times as long as one request it takes besides."""
    return math.fsum(s.seconds for s in stages), math.fsum(s.rounds for s in stages)


def _model(config: RunConfig) -> str:
    from loadgen.local_models import DEFAULT_MODEL

    return config.model or (DEFAULT_MODEL if config.backend.kind == "hf" else ONLY_ONE)


def first_request(config: RunConfig, source: Source) -> dict[str, Any]:
    """What would be sent first: where to, what headers say besides, and the body."""
    asked = source.request(FIRST.stage, FIRST.agent, FIRST.seq)
    if config.backend.kind == "hf":
        body = {"prompt": asked.prompt, "output_tokens": asked.output_tokens}
        return {"method": None, "url": None, "headers": {}, "body": body}
    from loadgen.backends import BACKENDS
    from loadgen.backends.fleet import servers

    # Whatever the route, the first of several servers gets the first request.
    backend = servers(BACKENDS[config.backend.kind].build(config))[0]
    wire = backend.dialect.render(asked, _model(config))
    return {
        "method": "POST",
        "url": backend.address + wire.path,
        "headers": {**wire.headers, "X-Request-Id": str(FIRST), **_headers(config.backend)},
        "body": json.loads(wire.body),
    }


def shortened(config: RunConfig) -> RunConfig:
    """What asks for a prompt that is quickly made: nobody reads ten million words."""
    drawn = config.dataset is None and config.trace is None
    if not drawn or parse_lengths(config.isl).mean <= MOST_SHOWN:
        return config
    prefix = min(config.shared_prefix, MOST_SHOWN // 2)
    return config.model_copy(update={"isl": str(MOST_SHOWN), "shared_prefix": prefix})


def _cut(request: dict[str, Any]) -> str:
    tokens = request.get("prompt_tokens_shown")
    return "" if tokens is None else f", its prompt made of {tokens} tokens alone"


def _headers(settings: WireSettings) -> dict[str, str]:
    """Headers by name: what they hold may be a secret, the name of a variable is none."""
    from loadgen.wire.server import KEY_VARIABLES

    named = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
    key = {"Authorization": f"Bearer ${named}"} if named else {}
    given = {
        name: value if value.startswith("$") else f"({len(value)} characters)"
        for name, value in settings.headers.items()
    }
    return key | given


def _shown(request: dict[str, Any]) -> list[str]:
    """A request on the screen, long texts by their beginning."""
    to = f"POST {request['url']}" if request["url"] else "in this process"
    headers = [f"{name}: {value}" for name, value in request["headers"].items()]
    body = json.dumps(_shortened(request["body"]), indent=2, ensure_ascii=False)
    return [to, *headers, *body.splitlines()]


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return f"{value[:LONG_TEXT]}… ({len(value)} characters, {len(value.split())} words)"
    return value


def _row(stage: Ahead) -> list[str]:
    plan = stage.plan
    figures = (stage.requests, stage.prompt_tokens, stage.output_tokens)
    return [
        str(plan.number),
        plan.key.level,
        _warmup(plan),
        _window(plan, stage.seconds),
        *("?" if figure is None else f"{figure:,.0f}" for figure in figures),
    ]


def _warmup(plan: StagePlan) -> str:
    count = number_of(plan.warmup, "request") if plan.warmup else ""
    seconds = f"{plan.warmup_seconds:g} s" if plan.warmup_seconds else ""
    return ", ".join(part for part in (count, seconds) if part) or "-"


def _window(plan: StagePlan, seconds: float) -> str:
    if plan.seconds is not None:
        return f"{plan.seconds:g} s"
    if plan.requests is not None:
        return number_of(plan.requests, "request")
    return f"arrivals, {seconds:g} s" if math.isfinite(seconds) else "arrivals without end"


def _lasting(seconds: float, rounds: float, grace: float) -> str:
    if math.isinf(seconds):
        return "without end, until Ctrl-C"
    known = f"{seconds:.6g} s, and besides " if seconds else ""
    return (
        f"{known}{rounds:.4g} times as long as a request takes under its load (the last answers "
        f"of a stage: {grace:g} s at most)"
    )


def _plain(stage: Ahead) -> dict[str, Any]:
    plan = stage.plan
    return {
        "stage": plan.number,
        "agents": plan.key.agents,
        "request_rate": plan.key.request_rate,
        "repeat": plan.key.repeat,
        "warmup_requests": plan.warmup,
        "warmup_seconds": plan.warmup_seconds,
        "window_seconds": plan.seconds,
        "window_requests": plan.requests,
        "seconds": _finite(stage.seconds),
        "rounds": stage.rounds,
        "requests": stage.requests,
        "prompt_tokens": stage.prompt_tokens,
        "output_tokens": stage.output_tokens,
    }


def _sum(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return math.fsum(known) if len(known) == len(figures) else None


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
