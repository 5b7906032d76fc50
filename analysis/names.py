"""Names that come from files and servers, on their way to a terminal. Standard library only."""

from __future__ import annotations

from contract.errors import DataError


def printable(where: str, name: str) -> str:
    """`name`, fit for a terminal. DataError on control characters and their like."""
    if not name.isprintable():
        raise DataError(f"{where}: found {name!r}, expected printable characters")
    return name
