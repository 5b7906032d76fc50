"""`loadgen serve-fake`: a server without a model, for trying everything else out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from contract.commandline import Parser, integer, number
from contract.errors import ConfigError
from loadgen.fakes.script import explained, failing

if TYPE_CHECKING:
    from loadgen.fakes.emulator import Kind
    from loadgen.fakes.steps import StepModel


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """The `serve-fake` subcommand."""
    parser = subparsers.add_parser(
        "serve-fake",
        help="serve a protocol without a model: known times, scripted failures, a log",
        description="Serve one of the protocols without a model. Tokens are made in steps: a step "
        "over b sequences lasts a + c·b, plus the prefill of the prompts that enter with it. What "
        "really happened is on GET /fake/log. Ends with Ctrl-C (130) or SIGTERM (143).",
        epilog=explained(),
    )
    parser.set_defaults(command=command)
    flag = parser.add_argument
    flag("--protocol", required=True, metavar="NAME",
         help="vllm, openai, ollama, tgi or llama-server")  # fmt: skip
    flag("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    flag("--port", type=integer(at_least=0, at_most=65535), default=0, help="default: any free one")
    flag("--model", action="append", metavar="NAME", help="served model, repeatable (default tiny)")
    _add_times(parser)
    _add_limits(parser)
    flag("--stop-after", type=integer(at_least=1), metavar="N",
         help="the model stops by itself at its Nth token, which has no text")  # fmt: skip
    flag("--reasoning", type=integer(at_least=0), default=0, metavar="N",
         help="the first N tokens of a chat's reply are reasoning (not tgi)")  # fmt: skip
    flag("--fail", action="append", default=[], metavar="INDEX=FAILURE",
         help="what request INDEX, counted from 0, or `all` suffers; repeatable")  # fmt: skip


def _add_times(parser: argparse.ArgumentParser) -> None:
    flag, seconds = parser.add_argument, number(at_least=0, at_most=86_400)
    flag("--step-seconds", type=seconds, default=0.01, metavar="S",
         help="a: every step (default 0.01)")  # fmt: skip
    flag("--sequence-seconds", type=seconds, default=0.0005, metavar="S",
         help="c: per sequence in the step (default 0.0005)")  # fmt: skip
    flag("--prefill-seconds", type=seconds, default=0.0, metavar="S", help="per prompt (default 0)")
    flag("--prefill-token-seconds", type=seconds, default=0.0001, metavar="S",
         help="per prompt token not in the prefix cache (default 0.0001)")  # fmt: skip
    flag("--jitter", type=number(at_least=0, at_most=1), default=0.0, metavar="SHARE",
         help="of each step's time, uniform, either way (default 0)")  # fmt: skip
    flag("--seed", type=integer(at_least=0), default=0, help="of the jitter (default 0)")
    flag("--load-seconds", type=seconds, default=0.0, metavar="S", help="loading the model takes")
    flag("--cold", action="store_true",
         help="start unloaded: ollama and llama-server load at the first request, the others "
         "open their port once loaded")  # fmt: skip
    flag("--idle-seconds", type=number(above=0, at_most=86_400), metavar="S",
         help="idle time that unloads (default ollama 300, llama-server never)")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("--slots", type=integer(at_least=1, at_most=100_000), default=8, metavar="N",
         help="sequences in a step at most (default 8)")  # fmt: skip
    flag("--queue-limit", type=integer(at_least=0), metavar="N",
         help="requests that may wait; more are refused (ollama: only while it loads)")  # fmt: skip
    flag("--context", type=integer(at_least=4), default=4096, metavar="N",
         help="tokens of prompt and answer together (default 4096)")  # fmt: skip
    flag("--kv-tokens", type=integer(at_least=4), metavar="N",
         help="tokens held at once; a request waits until its longest answer fits")  # fmt: skip
    flag("--preempt", action="store_true",
         help="with --kv-tokens: enter when the prompt fits, give way later")  # fmt: skip
    flag("--no-prefix-cache", action="store_true", help="evaluate every prompt token")


def command(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    import asyncio

    return asyncio.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    from loadgen.fakes.emulator import Served, emulator, protocol
    from loadgen.fakes.serving import serve

    kind = protocol(arguments.protocol)
    opens_after = arguments.load_seconds if arguments.cold and kind.opens_loaded else 0.0
    served = Served(
        models=tuple(arguments.model or ("tiny",)),
        context=arguments.context,
        stop_after=arguments.stop_after,
        reasoning=arguments.reasoning,
    )
    model, script = step_model(arguments, kind), failing(arguments.fail)
    server = emulator(arguments.protocol, model, served, script, arguments.port, arguments.host)
    return await serve(server, opens_after)


def step_model(arguments: argparse.Namespace, kind: Kind) -> StepModel:
    """The step model its options describe; ConfigError for what the protocol has not."""
    from loadgen.fakes.steps import StepModel

    name = arguments.protocol
    if arguments.queue_limit is not None and not kind.refuses:
        raise ConfigError(f"--queue-limit: {name} never refuses; its queue has no limit")
    if arguments.idle_seconds is not None and kind.opens_loaded:
        raise ConfigError(
            f"--idle-seconds: {name} unloads nothing; only ollama and llama-server do"
        )
    if arguments.preempt and arguments.kv_tokens is None:
        raise ConfigError("--preempt: wants --kv-tokens, which has to run out")
    if name in ("tgi", "llama-server") and len(arguments.model or ()) > 1:
        raise ConfigError(f"--model: {name} serves one, given {len(arguments.model)}")
    given: dict[str, Any] = {
        field: getattr(arguments, field)
        for field in StepModel.__dataclass_fields__
        if hasattr(arguments, field)
    }
    if arguments.idle_seconds is None:
        given["idle_seconds"] = kind.idle_seconds
    block = None if arguments.no_prefix_cache else kind.prefix_block
    loaded = kind.opens_loaded or not arguments.cold
    return StepModel(**given, prefix_block=block, loaded=loaded)
