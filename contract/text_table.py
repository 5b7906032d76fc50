"""Aligned columns for terminals and pipes. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence


def render(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of equal columns: the first `left` columns flush left, the others flush right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def cell(text: str, i: int) -> str:
        return text.ljust(widths[i]) if i < left else text.rjust(widths[i])

    return "\n".join("  ".join(cell(t, i) for i, t in enumerate(line)).rstrip() for line in lines)
