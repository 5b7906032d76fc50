"""The command line of the scripted OpenAI-protocol server."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from contract.commandline import Parser, integer, number, run
from loadgen.fakes.script import Script, explained, failing
from loadgen.fakes.server import FakeServer
from loadgen.fakes.serving import serve


def parser() -> Parser:
    """Its options."""
    parser = Parser(
        prog="python -m loadgen.fakes.openai_server",
        description="A scripted server that speaks the OpenAI protocol; its log: GET /fake/log.",
        epilog=explained(),
    )
    seconds = number(at_least=0)
    add = parser.add_argument
    add("--port", type=integer(at_least=0, at_most=65535), default=0, help="0: any free one")
    add("--model", action="append", metavar="NAME", help="served model, repeatable (tiny)")
    add("--slots", type=integer(at_least=1), default=1)
    add("--service-seconds", type=seconds, help="time in the slot, whatever is generated (0.1)")
    add("--prefill-seconds", type=seconds, default=0.0, help="with --token-seconds")
    add("--token-seconds", type=seconds, help="instead of --service-seconds")
    add("--tokens-per-chunk", type=integer(at_least=1), default=1)
    add("--jitter", type=number(at_least=0, at_most=1), default=0.0, help="share of service time")
    add("--seed", type=integer(at_least=0), default=0)
    add("--queue-limit", type=integer(at_least=0), help="waiting requests beyond it get 503")
    add("--no-usage", action="store_true")
    add("--metrics", action="store_true", help="per-request metrics beside usage, as vLLM's")
    add("--close-after-stream", action="store_true")
    add("--fail", action="append", default=[], metavar="INDEX=FAILURE", help="or all=FAILURE")
    parser.set_defaults(command=_serve)
    return parser


def script(arguments: argparse.Namespace) -> Script:
    """The script its options describe."""
    failures = failing(arguments.fail)
    service = arguments.service_seconds
    if arguments.token_seconds is None and service is None:
        service = 0.1
    return Script(
        slots=arguments.slots,
        service_seconds=service,
        prefill_seconds=arguments.prefill_seconds,
        token_seconds=arguments.token_seconds or 0.0,
        tokens_per_chunk=arguments.tokens_per_chunk,
        jitter=arguments.jitter,
        seed=arguments.seed,
        models=tuple(arguments.model or ("tiny",)),
        usage=not arguments.no_usage,
        metrics=arguments.metrics,
        queue_limit=arguments.queue_limit,
        close_after_stream=arguments.close_after_stream,
        failures=failures.failures,
        always=failures.always,
    )


def _serve(arguments: argparse.Namespace) -> int:
    return asyncio.run(serve(FakeServer(script(arguments), port=arguments.port)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    return run(parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
