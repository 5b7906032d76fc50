"""`loadgen check`: one screen about the target, before any load.

Three requests are sent: a short one, and one longer prompt twice, which tells whether a prefix
cache answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from contract.errors import TargetError
from contract.text_table import render
from loadgen.backends import BACKENDS
from loadgen.backends.base import Backend, Request, Target, performed
from loadgen.backends.fleet import servers
from loadgen.backends.surveyed import Surveyed
from loadgen.config import RunConfig
from loadgen.readiness import wait_all_ready
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import LEAST_TOKENS, PromptSource

SHORT_TOKENS, LONG_TOKENS, OUTPUT_TOKENS = 8, 256, 4
CACHED_SHARE = 0.5  # of the prompt's tokens: less is a shared first token, or a block
CACHED_PREFILL = 0.5  # of the first prefill: what recomputes a prompt takes as long again
SECRETIVE = "unknown: the server reports neither cached tokens nor prefill"


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found: the target, its short request, and the longer one sent twice."""

    target: Target
    short: Facts
    twice: tuple[Facts, Facts] | None  # None where the short one failed


def check(config: RunConfig, *, as_json: bool) -> int:
    """Print what was found; TargetError (3) when nothing answers or the probe fails."""
    config = _with_the_cache_at_work(config)
    probe = asyncio.run(_probe(config))
    found = _findings(config, probe)
    if as_json:
        print(json.dumps(found))
    else:
        print(render(["what", "found"], [[k, _shown(v)] for k, v in found.items()], left=2))
    if probe.short.outcome != "ok":
        short = probe.short
        raise TargetError(f"the probe request ended {short.outcome}: {short.error or 'no detail'}")
    return 0


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


async def _probe(config: RunConfig) -> Probe:
    backend = BACKENDS[config.backend.kind].build(config)
    try:
        if config.wait_ready:
            await wait_all_ready(servers(backend), config.wait_ready, _said)
        target = await backend.open()
        salt = time.time_ns() % 2**32
        short = await _ask(backend, _request(backend, config, SHORT_TOKENS, salt), config.timeout)
        if short.outcome != "ok":
            return Probe(target, short, None)
        if isinstance(backend, Surveyed):
            # A server that loads on demand tells its context only now.
            target = await backend.examined(target)
        long = min(LONG_TOKENS, (target.context_length or 4 * LONG_TOKENS) // 4)
        request = _request(backend, config, max(LEAST_TOKENS, long), salt)
        twice = [await _ask(backend, request, config.timeout) for _ in range(2)]
        return Probe(target, short, (twice[0], twice[1]))
    finally:
        await backend.close()


def _said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _ask(backend: Backend, request: Request, timeout: float) -> Facts:
    return await performed(backend, request, Stopwatch(time.monotonic, time.monotonic()), timeout)


def _request(backend: Backend, config: RunConfig, tokens: int, salt: int) -> Request:
    source = PromptSource(
        config.seed, fixed(tokens), fixed(OUTPUT_TOKENS), salt, backend.tokenizer()
    )
    return source.request(0, 0, 0)


def _findings(config: RunConfig, probe: Probe) -> dict[str, Any]:
    target, facts = probe.target, probe.short
    counted = facts.output_source == "server"
    return {
        "backend": config.backend.kind,
        "address": target.address or "in process",
        "version": target.version,
        "model": target.model,
        "models": list(target.models),
        "quantization": target.quantization,
        "parameters": target.parameters,
        "context_length": target.context_length,
        "loaded_before": target.notes.get("loaded_before"),
        "streaming": facts.outcome == "ok",
        "finish_reason": facts.finish_reason,
        "usage": "from the server" if counted else facts.output_source,
        "prompt_tokens": facts.prompt_tokens,
        "output_tokens": facts.output_tokens,
        "server_reports": sorted(
            k for k, v in asdict(facts.server).items() if v is not None
        ) if facts.server else [],
        "prefix_cache": prefix_cache(*probe.twice) if probe.twice else None,
    }  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "unknown" if value is None else str(value)
