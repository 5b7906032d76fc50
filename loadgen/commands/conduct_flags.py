"""The flags that say how a run is conducted: looked at first, waited for, freed in between."""

from __future__ import annotations

import argparse

from contract.commandline import integer, number


def add_wait_flag(parser: argparse.ArgumentParser) -> None:
    """Patience with a server that starts."""
    parser.add_argument(
        "--wait-ready", type=number(at_least=0, at_most=86_400), metavar="S",
        help="servers: wait up to S seconds until the server takes requests (default 0)",
    )  # fmt: skip


def add_reset_flag(parser: argparse.ArgumentParser) -> None:
    """The same start for every stage."""
    parser.add_argument(
        "--reset-cache", action="store_true", default=None,
        help="vllm, llama-server: empty the prefix cache before every stage",
    )  # fmt: skip


def add_dry_run_flag(parser: argparse.ArgumentParser) -> None:
    """Look before you leap."""
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print the plan, what it is expected to take and the first request; ask no server, "
        "write nothing",
    )  # fmt: skip


def add_shards_flag(parser: argparse.ArgumentParser) -> None:
    """Several processes as one load generator."""
    parser.add_argument(
        "--shards", type=integer(at_least=1, at_most=64), metavar="N",
        help="servers: send from N processes of this machine, as one schedule (default 1)",
    )  # fmt: skip
