"""Words as a reader sees them: on one line, numbers with their nouns. Standard library only."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Without newlines, and without the signs that would steer a terminal."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))


def number_of(count: float, noun: str) -> str:
    """`1 agent`, `8 agents`, `2.5 requests`; what is not whole to six significant figures."""
    shown = str(count) if isinstance(count, int) else f"{count:g}"
    return f"{shown} {noun}{'' if count == 1 else 's'}"
