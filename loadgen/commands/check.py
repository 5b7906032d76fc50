"""`loadgen check`: one screen about the target, before any load.

Three requests are sent: a short one, and one longer prompt twice, which tells whether a prefix
cache answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contract.errors import TargetError
from contract.text_table import render
from loadgen.backends import BACKENDS
from loadgen.backends.base import Backend, Request, Target, performed
from loadgen.backends.fleet import opened, servers
from loadgen.backends.surveyed import Surveyed
from loadgen.config import RunConfig
from loadgen.readiness import wait_all_ready
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import LEAST_TOKENS, PromptSource

SHORT_TOKENS, LONG_TOKENS, OUTPUT_TOKENS = 8, 256, 8
CACHED_SHARE = 0.5  # of the prompt's tokens: less is a shared first token, or a block
CACHED_PREFILL = 0.5  # of the first prefill: what recomputes a prompt takes as long again
SECRETIVE = "unknown: the server reports neither cached tokens nor prefill"
# How a server is made to report them.
TALKATIVE = {"vllm": ", start it with --enable-prompt-tokens-details"}

COUNTED = {
    "server": "from the server",
    "tokenizer": "from the tokenizer",
    None: "none: nobody counts tokens",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found of one server: the target, its short request with the instants at which
    content arrived, and the longer one sent twice."""

    target: Target
    short: Facts
    arrivals: Sequence[float] = ()
    twice: tuple[Facts, Facts] | None = None  # None where the short one failed


def check(config: RunConfig, *, as_json: bool) -> int:
    """Print what was found of each server; TargetError (3) when one is not there or its probe
    fails."""
    seen = asyncio.run(_look(_with_the_cache_at_work(config)))
    probes = [probe for probe in seen if isinstance(probe, Probe)]
    found = [findings(config.backend.kind, probe) for probe in probes]
    if as_json and found:
        print(json.dumps(found[0] if len(seen) == 1 else {"servers": found}))
    elif found:
        print(screen(found))
    lacking = [str(error) for error in seen if isinstance(error, TargetError)]
    lacking += [_failure(probe) for probe in probes if probe.short.outcome != "ok"]
    if lacking:
        raise TargetError("; ".join(lacking))
    return 0


def screen(found: Sequence[Mapping[str, Any]]) -> str:
    """What was found as a table: a line for each thing, a column for each server."""
    rows = [[name, *(_shown(one[name]) for one in found)] for name in found[0]]
    return render(["what", *["found"] * len(found)], rows, left=1 + len(found))


def streamed(arrivals: Sequence[float]) -> tuple[bool | None, str]:
    """Whether an answer came as it was made, and by what evidence; `arrivals` are the instants of
    its chunks. Several chunks in one read may have been made faster than they are read."""
    chunks, reads = len(arrivals), len(set(arrivals))
    if chunks < 2:
        return (False if chunks else None), "in one piece" if chunks else "none"
    if reads == 1:
        return None, f"{chunks} in one read"
    return True, f"{chunks} in {reads} reads over {1e3 * (arrivals[-1] - arrivals[0]):.1f} ms"


def prefix_cache(first: Facts, second: Facts) -> str:
    """Whether a prefix cache answered the same prompt the second time, and by what evidence.

    The server's own count of cached tokens decides; where it reports none, its prefill does;
    where it reports neither, nothing can be said: a client's own times show waiting too.
    """
    if first.outcome != "ok" or second.outcome != "ok":
        return f"unknown: the probe ended {first.outcome}, then {second.outcome}"
    cached = second.server.cached_prompt_tokens if second.server else None
    if cached is not None and second.prompt_tokens:
        answer = "yes" if cached >= CACHED_SHARE * second.prompt_tokens else "no"
        return f"{answer}: {cached} of {second.prompt_tokens} prompt tokens cached"
    before, after = (facts.server.prefill if facts.server else None for facts in (first, second))
    if before is None or after is None or before <= 0:
        return SECRETIVE
    answer = "yes" if after < CACHED_PREFILL * before else "no sign"
    return f"{answer}: prefill {before * 1e3:.1f} ms, then {after * 1e3:.1f} ms"


def _with_the_cache_at_work(config: RunConfig) -> RunConfig:
    """A backend that is asked to leave its prompt cache alone could not be found to have one."""
    if not hasattr(config.backend, "cache_prompt"):
        return config
    backend = config.backend.model_copy(update={"cache_prompt": True})
    return config.model_copy(update={"backend": backend})


async def _look(config: RunConfig) -> list[Probe | TargetError]:
    backend = BACKENDS[config.backend.kind].build(config)
    every = servers(backend)
    try:
        if config.wait_ready:
            await wait_all_ready(every, config.wait_ready, _said)
        targets = await opened(every) if every else [await backend.open()]
        return [
            await _probe(one, target, config) if isinstance(target, Target) else target
            for one, target in zip(every or (backend,), targets, strict=True)
        ]
    finally:
        await backend.close()


async def _probe(backend: Backend, target: Target, config: RunConfig) -> Probe:
    salt = time.time_ns() % 2**32
    watch = Stopwatch(time.monotonic, time.monotonic())
    request = _request(backend, config, SHORT_TOKENS, salt)
    short = await performed(backend, request, watch, config.timeout)
    marks = watch.marks
    arrivals = [marks[i] for i in short.content] if short.content is not None else list(marks)
    if short.outcome != "ok":
        return Probe(target, short, arrivals)
    if isinstance(backend, Surveyed):
        # A server that loads on demand tells its context only now.
        target = await backend.examined(target)
    long = min(LONG_TOKENS, (target.context_length or 4 * LONG_TOKENS) // 4)
    request = _request(backend, config, max(LEAST_TOKENS, long), salt)
    twice = [await _ask(backend, request, config.timeout) for _ in range(2)]
    return Probe(target, short, arrivals, (twice[0], twice[1]))


def _said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _ask(backend: Backend, request: Request, timeout: float) -> Facts:
    return await performed(backend, request, Stopwatch(time.monotonic, time.monotonic()), timeout)


def _request(backend: Backend, config: RunConfig, tokens: int, salt: int) -> Request:
    source = PromptSource(
        config.seed, fixed(tokens), fixed(OUTPUT_TOKENS), salt, backend.tokenizer()
    )
    return source.request(0, 0, 0)


def findings(kind: str, probe: Probe) -> dict[str, Any]:
    """All that is worth knowing of a server before load is put on it, in the order it is read."""
    target, facts = probe.target, probe.short
    streaming, chunks = streamed(probe.arrivals)
    reported = asdict(facts.server) if facts.server else {}
    return {
        "backend": kind,
        "address": target.address or "in process",
        "reachable": True,
        "version": target.version,
        "model": target.model,
        "models": list(target.models),
        "quantization": target.quantization,
        "parameters": target.parameters,
        "context_length": target.context_length,
        "loaded_before": target.notes.get("loaded_before"),
        "outcome": facts.outcome,
        "streaming": streaming,
        "chunks": chunks,
        "finish_reason": facts.finish_reason,
        "usage": COUNTED[facts.output_source],
        "prompt_tokens": facts.prompt_tokens,
        "output_tokens": facts.output_tokens,
        "server_reports": sorted(name for name, value in reported.items() if value is not None),
        "prefix_cache": _prefix_cache(kind, probe),
    }


def _prefix_cache(kind: str, probe: Probe) -> str | None:
    if probe.twice is None:
        return None
    answer = prefix_cache(*probe.twice)
    return answer + TALKATIVE.get(kind, "") if answer == SECRETIVE else answer


def _failure(probe: Probe) -> str:
    where = f" at {probe.target.address}" if probe.target.address else ""
    return (
        f"the probe request{where} ended {probe.short.outcome}: {probe.short.error or 'no detail'}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "unknown" if value is None else str(value)
