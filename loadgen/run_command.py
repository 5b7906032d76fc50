"""`loadgen run`: flags and YAML merged once, one run driven, its table printed."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.commandline import Parser, integer, number
from contract.errors import ConfigError, nearest

if TYPE_CHECKING:
    from loadgen.conduct import Conduct
    from loadgen.config import RunConfig

# flag (as argparse spells its dest) -> place in the configuration
PLACES = {
    "model": ("model",),
    "agents": ("agents",),
    "isl": ("isl",),
    "osl": ("osl",),
    "duration": ("duration",),
    "request_count": ("request_count",),
    "warmup_requests": ("warmup_requests",),
    "repeats": ("repeats",),
    "timeout": ("timeout",),
    "grace_period": ("grace_period",),
    "seed": ("seed",),
    "output_dir": ("output_dir",),
    "metrics_port": ("metrics_port",),
    "metrics_address": ("metrics_address",),
    "metrics_linger": ("metrics_linger",),
    "base_url": ("backend", "base_url"),
    "endpoint": ("backend", "endpoint"),
    "device": ("backend", "device"),
    "threads": ("backend", "threads"),
    "keep_alive": ("backend", "keep_alive"),
    "num_ctx": ("backend", "num_ctx"),
    "cache_prompt": ("backend", "cache_prompt"),
}
SERVERS = ("openai", "vllm", "ollama", "tgi", "llama-server")
# place in the configuration -> the backends that have it
ONLY_FOR = {
    "base_url": SERVERS,
    "endpoint": ("openai", "vllm", "ollama", "llama-server"),
    "device": ("hf",),
    "threads": ("hf",),
    "keep_alive": ("ollama",),
    "num_ctx": ("ollama",),
    "cache_prompt": ("llama-server",),
}
ENDPOINTS = ("completions", "chat", "generate", "native")


def add_target_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is driven: shared by `run` and `check`."""
    flag = parser.add_argument
    flag("--backend", metavar="NAME",
         help="hf (default), openai, vllm, ollama, tgi or llama-server")  # fmt: skip
    flag("--base-url", "--url", dest="base_url", metavar="URL",
         help="where the server listens (default: the backend's customary address)")  # fmt: skip
    flag("--model", metavar="NAME", help="model name or local folder (default: the only one there)")
    flag("--endpoint", choices=ENDPOINTS,
         help="openai, vllm: completions (default), chat; ollama: generate (default), chat; "
              "llama-server: native (default), completions, chat")  # fmt: skip
    flag("--device", choices=("auto", "cpu", "cuda"), help="hf: where the model runs")
    flag("--threads", type=integer(at_least=1, at_most=1024), help="hf: CPU threads (default 1)")
    flag("--keep-alive", metavar="T",
         help="ollama: how long a model stays in memory: seconds, 10m, -1 for ever")  # fmt: skip
    flag("--num-ctx", type=integer(at_least=4), metavar="N", help="ollama: context in tokens")
    flag("--cache-prompt", action="store_true", default=None,
         help="llama-server: let a slot reuse the prompt it held (default: not)")  # fmt: skip
    flag("--timeout", type=number(above=0, at_most=86_400), metavar="S",
         help="give up a request after S seconds (default 120)")  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """The `run` subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="drive N agents against a backend, one stage per N",
        description="Drive N independent agents, one stage per level of N, and write a run "
        "directory. Without arguments: a small local model in process, agents 1,2,4,8.",
    )
    parser.set_defaults(command=command)
    flag = parser.add_argument
    flag("--config", metavar="FILE", help="YAML with the same settings; flags win over it")
    add_target_flags(parser)
    flag("--agents", "--concurrency", dest="agents", metavar="N",
         help="1..16 each, 1..16x2 doubling, 1..16+3 every third, or 1,2,4")  # fmt: skip
    flag("--isl", type=integer(at_least=1), metavar="N", help="prompt tokens per request")
    flag("--osl", type=integer(at_least=1), metavar="N", help="generated tokens per request")
    flag("--duration", type=number(above=0, at_most=86_400), metavar="S",
         help="seconds of each measured window (default hf 5, servers 30)")  # fmt: skip
    flag("--request-count", type=integer(at_least=1), metavar="N",
         help="close each window after N requests instead")  # fmt: skip
    flag("--warmup-requests", type=integer(at_least=0), metavar="N",
         help="completions before the window opens (default: one per agent)")  # fmt: skip
    flag(
        "--repeats", type=integer(at_least=1, at_most=1000), metavar="N", help="all levels, N times"
    )
    flag("--grace-period", type=number(at_least=0, at_most=86_400), metavar="S",
         help="let requests in flight end for S seconds after the window (default 30)")  # fmt: skip
    flag(
        "--seed",
        type=integer(at_least=0, at_most=2**31 - 1),
        metavar="N",
        help="prompts (default 0)",
    )
    flag("--output-dir", metavar="DIR", help="where run directories go (default runs)")
    flag("--metrics-port", type=integer(at_least=0, at_most=65_535), metavar="PORT",
         help="/metrics on this port (default 9210, 0 any free one)")  # fmt: skip
    flag("--metrics-address", metavar="ADDR", help="/metrics listens here (default 127.0.0.1)")
    flag("--metrics-linger", type=number(at_least=0, at_most=3600), metavar="S",
         help="wait up to S seconds for two last scrapes, if scraped (default 15)")  # fmt: skip
    flag("--json", action="store_true", help="print the summary as JSON instead of the table")


def resolve(arguments: argparse.Namespace) -> RunConfig:
    """YAML and flags merged as plain dicts, validated once."""
    from contract.config import load_yaml, validate
    from loadgen.config import RunConfig

    file = getattr(arguments, "config", None)
    document: dict[str, Any] = load_yaml(Path(file)) if file else {}
    _name_backend(arguments.backend, document)
    given = {flag for flag in ("duration", "request_count") if getattr(arguments, flag, None)}
    if len(given) == 1:  # a stop given as a flag replaces the other kind of stop in the file
        document.pop("request_count" if "duration" in given else "duration", None)
    for flag, place in PLACES.items():
        value = getattr(arguments, flag, None)
        if value is not None:
            _put(document, place, value, flag)
    return validate(RunConfig, document, where=file or "")


def _name_backend(given: str | None, document: dict[str, Any]) -> None:
    from loadgen.backends import BACKENDS

    backend = document.setdefault("backend", {})
    if isinstance(backend, str):
        backend = document["backend"] = {"kind": backend}
    if not isinstance(backend, dict):
        raise ConfigError(f"backend: a mapping or a name is wanted, given {backend!r}")
    if given is not None:
        if backend.get("kind", given) != given:
            document["backend"] = backend = {}
        backend["kind"] = given
    kind = str(backend.setdefault("kind", "hf"))
    if kind not in BACKENDS:
        raise ConfigError(
            f"--backend: '{kind}' is unknown, allowed: {', '.join(BACKENDS)}"
            f"{nearest(kind, BACKENDS)}"
        )


def _put(document: dict[str, Any], place: tuple[str, ...], value: Any, flag: str) -> None:
    if place[0] == "backend":
        kind = document["backend"]["kind"]
        if kind not in ONLY_FOR[flag]:
            raise ConfigError(
                f"--{flag.replace('_', '-')}: not for backend '{kind}', "
                f"only for {', '.join(ONLY_FOR[flag])}"
            )
        document["backend"][place[1]] = value
    else:
        document[place[0]] = value


def command(arguments: argparse.Namespace) -> int:
    """Run, print, and say how it ended: 0, or 128 + the signal."""
    config = resolve(arguments)
    from loadgen.backends import BACKENDS
    from loadgen.conduct import Conduct
    from loadgen.console import said
    from loadgen.summary import run_summary, table

    backend = BACKENDS[config.backend.kind].build(config)
    conduct = Conduct(config, backend, said)
    try:
        _loop_run(conduct)
    finally:
        if conduct.summaries:
            document = {
                **run_summary(conduct.manifest, conduct.summaries),
                "path": str(conduct.path),
            }
            print(json.dumps(document) if arguments.json else table(conduct.summaries), flush=True)
        if conduct.path is not None:
            said(f"run directory: {conduct.path}")
    return 0 if conduct.interrupted is None else 128 + conduct.interrupted


def _loop_run(conduct: Conduct) -> None:
    import asyncio

    from loadgen.console import watch

    factory = None
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop

    async def main() -> None:
        drawing = asyncio.create_task(watch(conduct))
        try:
            await conduct.run()
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
