"""`loadgen`: put N concurrent agents on an LLM server and write down what happened."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from contract.commandline import VERSION, Parser, run
from loadgen.commands import conduct_flags, flags
from loadgen.commands import export as export_command
from loadgen.commands import find as find_command
from loadgen.commands import run as run_command
from loadgen.commands import serve as serve_command


def build_parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="loadgen", description=__doc__)
    top.add_argument("--version", action="version", version=f"loadstone {VERSION}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    run_command.add_parser(subparsers)
    find_command.add_parser(subparsers)
    _add_check(subparsers)
    _add_show(subparsers)
    export_command.add_parser(subparsers)
    _add_listing(subparsers, "backends", "the backends and their customary addresses", backends)
    _add_listing(subparsers, "models", "the local models that can be built here", models)
    serve_command.add_parser(subparsers)
    return top


def _add_check(subparsers: argparse._SubParsersAction[Parser]) -> None:
    check = subparsers.add_parser("check", help="is the server there, and what does it serve")
    check.set_defaults(command=check_command)
    flags.add_target_flags(check)
    conduct_flags.add_wait_flag(check)
    check.add_argument("--json", action="store_true")


def _add_show(subparsers: argparse._SubParsersAction[Parser]) -> None:
    show = subparsers.add_parser("show", help="print the table of a run again")
    show.set_defaults(command=show_command)
    show.add_argument("run", nargs="?", default="latest", help="path or name (default: latest)")
    show.add_argument("--output-dir", default="runs", metavar="DIR")
    show.add_argument("--json", action="store_true")


def _add_listing(
    subparsers: argparse._SubParsersAction[Parser], name: str, says: str, command: object
) -> None:
    listing = subparsers.add_parser(name, help=says)
    listing.set_defaults(command=command)
    listing.add_argument("--json", action="store_true")


def backends(arguments: argparse.Namespace) -> int:
    """List the backends."""
    from contract.text_table import render
    from loadgen.backends import BACKENDS

    if arguments.json:
        entries = {n: {"address": e.address, "says": e.says} for n, e in BACKENDS.items()}
        print(json.dumps(entries))
        return 0
    rows = [[name, entry.address or "in process", entry.says] for name, entry in BACKENDS.items()]
    print(render(["backend", "address", "what it is"], rows, left=3))
    return 0


def models(arguments: argparse.Namespace) -> int:
    """List the local models."""
    from contract.text_table import render
    from loadgen.local_models import known_models

    known = known_models()
    if arguments.json:
        print(json.dumps([{**asdict(m), "parameters": m.parameters} for m in known]))
        return 0
    header = ["model", "parameters", "layers", "width", "heads"]
    rows = [
        [m.name, f"{m.parameters / 1e6:.3f} M", str(m.layers), str(m.width), str(m.heads)]
        for m in known
    ]
    print(render(header, rows))
    return 0


def check_command(arguments: argparse.Namespace) -> int:
    """Reach the target and say what was found."""
    from loadgen.commands.check import check

    return check(run_command.resolve(arguments), as_json=arguments.json)


def show_command(arguments: argparse.Namespace) -> int:
    """The table of a run, made again from its records."""
    from loadgen.commands.show import show

    return show(arguments.run, arguments.output_dir, as_json=arguments.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `loadgen` script."""
    return run(build_parser, argv)
