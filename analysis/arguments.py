"""Argument types shared by the commands of `analysis`. Standard library only."""

from __future__ import annotations

import argparse

from contract.errors import DataError


def text(given: str) -> str:
    """An argparse type: a word that says something; an empty one is not the default."""
    if not given.strip():
        raise argparse.ArgumentTypeError(f"'{given}' given, a name or address allowed")
    return given


def printable(where: str, name: str) -> str:
    """`name`, fit for a terminal. DataError on control characters and their like."""
    if not name.isprintable():
        raise DataError(f"{where}: found {name!r}, expected printable characters")
    return name
