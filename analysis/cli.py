"""The `analysis` command line: parsers only, the work is imported inside each command."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import fit_command, plan_command
from contract.commandline import VERSION, Parser
from contract.commandline import run as run_command


def build_parser() -> Parser:
    """The parser of `analysis` with its subcommands."""
    parser = Parser(
        prog="analysis",
        description="Explain what was measured, decide what to buy.",
    )
    parser.add_argument("--version", action="version", version=f"loadstone {VERSION}")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    fit_command.add_parser(subparsers)
    plan_command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `analysis`; returns the exit code."""
    return run_command(build_parser, argv)
