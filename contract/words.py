"""Numbers with their nouns, as a reader says them. Standard library only."""

from __future__ import annotations


def number_of(count: float, noun: str) -> str:
    """`1 agent`, `8 agents`, `2.5 requests`; what is not whole to six significant figures."""
    shown = str(count) if isinstance(count, int) else f"{count:g}"
    return f"{shown} {noun}{'' if count == 1 else 's'}"
