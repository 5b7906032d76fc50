"""The flags that say how a run is conducted: looked at first, waited for, freed in between."""

from __future__ import annotations

import argparse


def add_dry_run_flag(parser: argparse.ArgumentParser) -> None:
    """Look before you leap."""
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print the plan, what it is expected to take and the first request; ask no server, "
        "write nothing",
    )  # fmt: skip
