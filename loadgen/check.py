"""`loadgen check`: one screen about the target, before any load."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from typing import Any

from contract.errors import TargetError
from contract.text_table import render
from loadgen.backends import BACKENDS
from loadgen.backends.base import Target
from loadgen.config import RunConfig
from loadgen.prompts import PromptSource
from loadgen.stopwatch import Facts, Stopwatch


def check(config: RunConfig, *, as_json: bool) -> int:
    """Print what was found; TargetError (3) when nothing answers or the probe fails."""
    target, facts = asyncio.run(_probe(config))
    found = _findings(config, target, facts)
    if as_json:
        print(json.dumps(found))
    else:
        print(render(["what", "found"], [[k, _shown(v)] for k, v in found.items()], left=2))
    if facts.outcome != "ok":
        raise TargetError(f"the probe request ended {facts.outcome}: {facts.error or 'no detail'}")
    return 0


async def _probe(config: RunConfig) -> tuple[Target, Facts]:
    backend = BACKENDS[config.backend.kind].build(config)
    try:
        target = await backend.open()
        prompts = PromptSource(config.seed, 8, 4, int(time.time()), backend.tokenizer())
        watch = Stopwatch(time.monotonic, time.monotonic())
        return target, await backend.perform(prompts.request(0, 0, 0), watch, config.timeout)
    finally:
        await backend.close()


def _findings(config: RunConfig, target: Target, facts: Facts) -> dict[str, Any]:
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
        "streaming": facts.outcome == "ok",
        "finish_reason": facts.finish_reason,
        "usage": "from the server" if counted else facts.output_source,
        "prompt_tokens": facts.prompt_tokens,
        "output_tokens": facts.output_tokens,
        "server_reports": sorted(
            k for k, v in asdict(facts.server).items() if v is not None
        ) if facts.server else [],
    }  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "unknown" if value is None else str(value)
